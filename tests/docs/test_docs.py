"""The documentation says what the code does."""

import re
import runpy
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from relay.config import RedisSettings, Settings
from relay.core.closecodes import Close
from relay.doctor.problems import PROBLEMS
from tests.deployment.pages import PAGES
from tests.harness import ROOT

DOCS = ROOT / "docs"

#: Pages with links to check. The commands of those beyond PAGES are not run.
LINKED_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("clients/*/README.md"))]


def test_close_codes_are_those_of_the_registry() -> None:
    rows = re.findall(r"^\| (\d{4}) \| (.*?) ?\| .*? \| (yes|no) \|$", (DOCS / "protocol.md").read_text(), re.MULTILINE)
    assert [(int(code), reason, back == "yes") for code, reason, back in rows] == [
        (close.code, close.reason, close.reconnect) for close in Close
    ]


def test_the_troubleshooting_page_is_made_from_the_checks_of_the_doctor() -> None:
    page = (DOCS / "troubleshoot.md").read_text()
    tables = runpy.run_path(str(DOCS / "troubleshoot_tables.py"))
    assert tables["render"](page) == page, "run: python docs/troubleshoot_tables.py"
    entries = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert entries == list(PROBLEMS), "each entry is one of the checks"
    with pytest.raises(ValueError, match="no part"):
        tables["render"]("# Another page")


def test_symptoms_are_what_relays_say() -> None:
    """The words between backquotes are in the sources, or are a metric, a variable or an error of a package."""
    sources = "".join(path.read_text() for path in (ROOT / "relay").rglob("*.py") if path.name != "problems.py")
    of_packages = (
        r"Error |Name or service|AuthenticationError|NoPermissionError|TooSlowError|unknown command|cluster support"
    )
    for problem in PROBLEMS.values():
        for quote in re.findall("`(.+?)`", " ".join(problem.symptoms)):
            known = re.match(rf"relay_\w+_total|RELAY_|/events|{of_packages}", quote)
            assert known or all(part in sources for part in quote.split("; ")), quote


def shown(default: object) -> str:
    match default:
        case None | "" | ():
            return ""
        case bool():
            return f"`{str(default).lower()}`"
        case float():
            return f"`{default:g}`"
        case tuple():
            return f"`{','.join(default)}`"
        case _:
            return f"`{default}`"


@pytest.mark.parametrize(("settings", "prefix"), [(RedisSettings, "REDIS_"), (Settings, "RELAY_")])
def test_every_setting_is_documented(settings: type[BaseSettings], prefix: str) -> None:
    rows = re.findall(
        rf"^\| `({prefix}\w+)` \| (.*?) ?\| (.*) \|$", (DOCS / "configuration.md").read_text(), re.MULTILINE
    )
    assert rows == [
        (prefix + name.upper(), shown(field.default), field.description)
        for name, field in settings.model_fields.items()
    ]


def anchors(text: str) -> set[str]:
    """What a page's headings are called in links, as GitHub does it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]*))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text()), f"{target}#{anchor}"


def test_every_page_is_reachable_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        ahead += [(page.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s:]+)", page.read_text())]
    assert set(PAGES) <= reached


#: Words that these pages do not use: each has a plain or a standard term (notify, reconnect, again, embedded, heartbeat).
UNWANTED = r"\b(whoever|anew|for ever|brought along|sign of life|hears?|heard|told|tells?|comes? back|worded)\b"


@pytest.mark.parametrize("page", LINKED_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_plain_words(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`|^#+ .*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(UNWANTED, prose, re.IGNORECASE) == []
