"""Topics, and the selectors that match them: texts, URI templates (RFC 6570), and ``*`` for everything.

The topic of a task is ``task:<id>``, that of general updates ``general``, and an extra channel has its name. Every other text
is a topic without a channel of its own: updates of all these topics are one sequence, on the channel `TOPICS`.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from re import compile as compile_pattern

#: The channel of the updates of all topics that have no channel of their own.
TOPICS = "topics"

#: Begins the name by which grants decide about such a topic. It is no channel.
TOPIC_PREFIX = "topic:"

#: The selector that matches every topic.
ANY = "*"

#: Longest topic and longest selector, in characters.
MAX_TOPIC = 1024

#: Most expressions and texts between them in a template, and most variables: each costs a step for every topic.
MAX_PARTS = 32
MAX_VARIABLES = 16

_UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%"
_RESERVED = ":/?#[]@!$&'()*+,;="

#: By operator: what begins the expansion, what separates values, whether names are written, and which characters values have.
_OPERATORS = {
    "": ("", ",", False, _UNRESERVED),
    "+": ("", ",", False, _UNRESERVED + _RESERVED),
    "#": ("#", ",", False, _UNRESERVED + _RESERVED),
    ".": (".", ".", False, _UNRESERVED),
    "/": ("/", "/", False, _UNRESERVED),
    ";": (";", ";", True, _UNRESERVED),
    "?": ("?", "&", True, _UNRESERVED),
    "&": ("&", "&", True, _UNRESERVED),
}

_EXPRESSION = compile_pattern(r"\{([+#./;?&]?)([A-Za-z0-9_.%,*]+)\}")
_VARIABLE = compile_pattern(r"([A-Za-z0-9_%]+(?:\.[A-Za-z0-9_%]+)*)(\*?)")

#: Advances a set of places in a text, as the bits of a number.
_Step = Callable[[str, int], int]


def _literal(literal: str) -> _Step:
    if not literal:
        return lambda _, places: places

    def step(text: str, places: int) -> int:
        return (places & _occurrences(text, literal)) << len(literal) if places else 0

    return step


@lru_cache(maxsize=1024)
def _occurrences(text: str, literal: str) -> int:
    """Return the places of a text where another one begins."""
    found, at = 0, text.find(literal)
    while at >= 0:
        found |= 1 << at
        at = text.find(literal, at + 1)
    return found


@lru_cache(maxsize=1024)
def _runs(text: str, characters: str) -> int:
    """Return the places of a text where one of some characters is."""
    allowed = frozenset(characters)
    return int("".join("1" if each in allowed else "0" for each in reversed(text)) or "0", 2)


def _any_of(characters: str) -> _Step:
    """Return the step over any number of certain characters, none included."""

    def step(text: str, places: int) -> int:
        if not places:
            return 0
        runs = _runs(text, characters)
        # A carry goes from each place to the end of its run: what it passes is reached.
        carried = runs + (places & runs)
        return places | ((carried ^ runs) & (runs | runs << 1))

    return step


def _variable(name: str, operator: str) -> _Step:
    """Return the step over one variable's part of an expansion, without what is before it. Raises ValueError."""
    _, separator, is_named, characters = _OPERATORS[operator]
    match = _VARIABLE.fullmatch(name)
    if match is None:
        raise ValueError(f"not supported: {name}")
    if match[2]:  # exploded: any number of values, with names or without
        return _any_of(f"{characters},={separator}")
    value = _any_of(f"{characters},")
    if not is_named:
        return value
    label, equals = _literal(match[1]), _literal("=")

    def step(text: str, places: int) -> int:
        after = label(text, places)
        with_value = value(text, equals(text, after))
        return with_value | after if operator == ";" else with_value

    return step


def _expression(operator: str, names: str) -> _Step:
    """Return the step over the expansion of an expression. Every variable may be undefined.

    Raises:
        ValueError: It has a variable that is not supported, for instance one with a prefix length.
    """
    first, separator, _, _ = _OPERATORS[operator]
    first_step, next_step = _literal(first), _literal(separator)
    variables = [_variable(name, operator) for name in names.split(",")]

    def step(text: str, places: int) -> int:
        begun = 0
        for variable in variables:
            begun |= variable(text, first_step(text, places)) | (variable(text, next_step(text, begun)) if begun else 0)
        return places | begun

    return step


def _steps(template: str) -> list[_Step]:
    """Return the steps over what a template can expand to. Raises ValueError if it is none, or has too many expressions."""
    steps: list[_Step] = []
    at = 0
    for match in _EXPRESSION.finditer(template):
        if match.start() > at:
            steps.append(_literal(template[at : match.start()]))
        steps.append(_expression(match[1], match[2]))
        at = match.end()
    literals = _EXPRESSION.sub("", template)
    if "{" in literals or "}" in literals or len(steps) > MAX_PARTS or template.count(",") >= MAX_VARIABLES:
        raise ValueError("no URI template, or one that is too long")
    if at < len(template):
        steps.append(_literal(template[at:]))
    return steps


@lru_cache(maxsize=4096)
def _compiled(template: str) -> list[_Step] | None:
    try:
        return _steps(template)
    except ValueError:
        return None


def is_template(selector: str) -> bool:
    """Whether a selector may match more topics than the one that is the same text."""
    return selector == ANY or ("{" in selector and _compiled(selector) is not None)


@lru_cache(maxsize=4096)
def matches(selector: str, topic: str) -> bool:
    """Whether a selector matches a topic. It takes time in proportion to the product of their lengths at most."""
    if selector in (ANY, topic):
        return True
    steps = _compiled(selector) if "{" in selector else None
    if steps is None:
        return False
    places = 1
    for step in steps:
        places = step(topic, places)
        if not places:
            return False
    return bool(places >> len(topic) & 1)


def any_matches(selectors: Iterable[str], topic: str) -> bool:
    """Whether one of several selectors matches a topic."""
    return any(matches(selector, topic) for selector in selectors)
