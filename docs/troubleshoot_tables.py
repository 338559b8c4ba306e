"""Write the parts of docs/troubleshoot.md that come from the checks of `relay doctor`: problems, symptoms, and Redis' errors.

``python docs/troubleshoot_tables.py`` rewrites the page. A test compares the page with the code.
"""

from collections.abc import Iterator
from pathlib import Path

from relay.doctor.problems import PROBLEMS
from relay.doctor.redis_errors import REDIS_ERRORS

PAGE = Path(__file__).parent / "troubleshoot.md"


def _table(*rows: tuple[str, ...]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, tuple("---" for _ in head), *rest)) + "\n"


def problems() -> str:
    """Return a section for each problem."""
    return "\n".join(f"### {each.id}\n\n{each.title} {each.remedy}\n" for each in PROBLEMS.values())


def symptoms() -> str:
    """Return the table of what is seen elsewhere, each with the problems that may be behind it."""
    ids: dict[str, list[str]] = {}
    for problem in PROBLEMS.values():
        for symptom in problem.symptoms:
            ids.setdefault(symptom, []).append(f"[{problem.id}](#{problem.id})")
    return _table(("what is seen", "problem"), *((symptom, ", ".join(links)) for symptom, links in ids.items()))


def redis_errors() -> str:
    """Return the table of Redis' own errors."""
    return _table(("code", "text", "meaning", "what to do"), *REDIS_ERRORS)


def _parts() -> Iterator[tuple[str, str]]:
    yield "symptoms", symptoms()
    yield "problems", problems()
    yield "errors of Redis", redis_errors()


def render(page: str) -> str:
    """Return the page with its parts, which stand between comments, as the code has them now."""
    for name, text in _parts():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"the page has no part {name!r}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
