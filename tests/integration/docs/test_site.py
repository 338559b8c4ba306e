"""The documentation site builds without warnings and loads nothing from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return directory


def test_pages_outside_of_docs_are_on_the_site(site: Path) -> None:
    assert 'href="deploy.html"' in (site / "index.html").read_text()
    assert (site / "clients" / "python.html").exists()
    assert (site / "contributing.html").exists()


def test_reference_has_every_public_module(site: Path) -> None:
    hub = (site / "reference" / "relay" / "core" / "hub.html").read_text()
    assert 'id="relay.core.hub.Hub.subscribe"' in hub
    for module in ("relay_client", "relay_client/errors", "relay_wire/keys"):
        assert (site / "reference" / f"{module}.html").exists()


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text())
        assert not [tag for tag in tags if re.search(r"(?:src|href)=\"?(?:https?:)?//", tag)], page


def test_reference_pages_come_from_the_code(site: Path) -> None:
    def text(name: str) -> str:
        return re.sub(r"<[^>]+>", "", (site / "reference" / name).read_text())

    assert "relay serve" in text("commands.html")
    assert "relay_delivery_latency_seconds" in text("metrics.html")
    assert "relay_redis_evicted_keys_total" in text("metrics.html")
    assert "4401" in text("close-codes.html")
    assert "POST /api/tasks/{task_id}" in text("schemas.html")
    # Members of a class, also those that it inherits, of an interface with comments, a type and a function.
    shown_there = (
        "onUpdate(listener:",
        "(state: FamilyState",
        "token?: TokenSource",
        "type TaskStatus =",
        "retryAfter(answer:",
    )
    for shown in shown_there:
        assert shown in text("javascript.html"), shown
    assert "#read" not in text("javascript.html")
