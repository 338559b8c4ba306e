"""The diagrams of the documentation are those of their text."""

import re
from hashlib import sha256

from tests.harness import ROOT


def test_diagrams_are_drawn_from_their_text() -> None:
    sources = sorted((ROOT / "docs" / "diagrams").glob("*.mmd"))
    assert len(sources) == 3
    for source in sources:
        picture = source.with_suffix(".svg").read_text()
        assert picture.endswith(f"<!-- {source.name} {sha256(source.read_bytes()).hexdigest()} -->\n"), (
            "run make diagrams"
        )
        assert set(re.findall(r"https?://[\w.]+", picture)) == {"http://www.w3.org"}, "nothing is loaded"
