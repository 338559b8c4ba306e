"""docs/architecture.md has the modules and the state tables of the code, and its two paths exist and stay short."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from tests.harness import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()

#: For each path the most functions, and the most files.
LIMITS = {"The path of one update": (12, 8), "The path of one subscribe": (18, 14)}


class Hop(NamedTuple):
    """One function on a path."""

    file: str
    function: str


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architecture_tables", ROOT / "docs" / "architecture_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_code() -> None:
    assert _tables().render(PAGE) == PAGE, "run: python docs/architecture_tables.py"


def hops(title: str) -> list[Hop]:
    """Return the rows of the table below a heading, whose numbers must count from 1."""
    section = re.search(rf"^## {title}\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| `([^`]+)` \| \S.* \|$", section[1], re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    return [Hop(file, function) for _, file, function in rows]


def functions(path: Path) -> set[str]:
    """Return the functions of a module, and the methods of its classes as ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + each.name for each in members if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


@pytest.mark.parametrize("title", LIMITS)
def test_functions_of_a_path_exist(title: str) -> None:
    for hop in hops(title):
        assert hop.function in functions(ROOT / hop.file), hop


@pytest.mark.parametrize("title", LIMITS)
def test_path_is_short(title: str) -> None:
    path = hops(title)
    most_functions, most_files = LIMITS[title]
    assert 8 <= len(path) <= most_functions
    assert len({hop.file for hop in path}) <= most_files
