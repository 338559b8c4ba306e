"""docs/architecture.md has the modules and the state tables of the code."""

import importlib.util
from types import ModuleType

from tests.harness import ROOT


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architecture_tables", ROOT / "docs" / "architecture_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert _tables().render(page) == page, "run: python docs/architecture_tables.py"
