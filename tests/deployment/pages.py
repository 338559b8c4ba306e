"""What the README and docs/ show: commands, and snippets by language."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Pages that a test follows from the first line to the last. Their blocks make no sense one by one.
FOLLOWED = {"tutorial.md"}


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(language: str) -> list[Snippet]:
    """All blocks of a language, without those of pages that are followed as a whole."""
    pages = (page for page in PAGES if page.name not in FOLLOWED)
    return [snippet for page in pages for snippet in _blocks(page) if snippet.language == language]


def _blocks(page: Path) -> Iterator[Snippet]:
    text = page.read_text()
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Snippet(page.name, text[: block.start()].count("\n") + 2, block[1], block[2])


def commands() -> list[str]:
    """What stands behind a dollar sign in the console blocks, each once, without the remarks behind it."""
    lines = (line for snippet in snippets("console") for line in snippet.text.splitlines())
    found = (re.sub(r"\s{2,}# .*", "", line.removeprefix("$ ")) for line in lines if line.startswith("$ "))
    return list(dict.fromkeys(found))
