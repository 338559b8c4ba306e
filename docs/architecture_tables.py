"""Write the tables of docs/architecture.md that come from docstrings: all modules, and the state machines of the core.

``python docs/architecture_tables.py`` rewrites the page. A test compares the page with the code.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"

#: The tables of modules: the package, the folder that holds it, whether subpackages belong to it, and what it is.
_GROUPS = (
    ("relay.core", "", True, "`relay/core` decides, and never awaits."),
    (
        "relay.protocols",
        "",
        True,
        "`relay/protocols` translates between bytes, messages and commands, and never awaits.",
    ),
    ("relay.broker", "", True, "`relay/broker` talks to Redis."),
    ("relay.server", "", True, "`relay/server` talks to clients, on Trio and ASGI."),
    ("relay", "", False, "`relay` itself has the entry points and the settings."),
    (
        "relay_wire",
        "clients/wire",
        True,
        "`clients/wire` has what server and clients must agree on, Lua scripts included.",
    ),
    ("relay_client", "clients/python", True, "`clients/python` has the Python client."),
    ("relay_jobs", "clients/jobs", True, "`clients/jobs` has the job queue."),
)

#: A line that draws a table in a docstring.
_RULE = re.compile(r"^=+(?: +=+)+$")


def _summary(docstring: str) -> str:
    """Return the first sentence of a docstring."""
    paragraph = " ".join(docstring.split("\n\n")[0].split()).replace("``", "`")
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0].rstrip(":")


def _modules(package: str, folder: str, *, with_subpackages: bool) -> Iterator[tuple[str, str]]:
    """Yield the names and the summaries of a package's modules."""
    directory = ROOT / folder / Path(*package.split("."))
    for path in sorted(directory.rglob("*.py") if with_subpackages else directory.glob("*.py")):
        if path.name != "__init__.py" and "examples" not in path.parts:
            name = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            yield name, _summary(ast.get_docstring(ast.parse(path.read_text())) or "")


def modules() -> str:
    """Return the tables of all modules."""
    parts = []
    for package, folder, with_subpackages, what in _GROUPS:
        rows = [f"| `{name}` | {text} |" for name, text in _modules(package, folder, with_subpackages=with_subpackages)]
        parts.append("\n".join([what, "", "| module | purpose |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def state_machines() -> str:
    """Return the tables in the docstrings of the core's classes, each with the first sentence of its docstring."""
    parts = []
    for path in sorted((ROOT / "relay" / "core").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            docstring = ast.get_docstring(node) if isinstance(node, ast.ClassDef) else None
            lines = inspect.cleandoc(docstring or "").splitlines()
            rules = [number for number, line in enumerate(lines) if _RULE.match(line)]
            if rules and isinstance(node, ast.ClassDef):
                table = "\n".join(lines[rules[0] : rules[-1] + 1])
                heading = f"### `relay.core.{path.stem}.{node.name}`"
                parts.append(f"{heading}\n\n{_summary(docstring or '')}\n\n```text\n{table}\n```")
    return "\n\n".join(parts)


def render(page: str) -> str:
    """Return the page with both parts, which stand between comments, as the code has them now."""
    for name, text in (("modules", modules()), ("state machines", state_machines())):
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
