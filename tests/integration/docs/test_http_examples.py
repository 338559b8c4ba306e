"""Every curl example of docs/http.md runs, and answers what the page says."""

import re
import subprocess

import pytest

from tests.conftest import StartRelay
from tests.harness import ROOT

PAGE = (ROOT / "docs" / "http.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

#: Stands for what differs from run to run.
ELLIPSIS = "…"


def examples() -> list[tuple[str, str]]:
    """The commands of the page and their output, in order: later ones build on earlier ones."""
    found: list[tuple[str, str]] = []
    for block in BLOCKS:
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            found.append((command, output.strip()))
    return found


def test_all_blocks_are_examples() -> None:
    assert sum(block.count("curl ") for block in BLOCKS) == len(examples())
    assert len(examples()) >= 8


def test_the_examples_run(share_relay: StartRelay) -> None:
    relay = share_relay()
    for command, expected in examples():
        assert "http://127.0.0.1:8000/" in command
        local = command.replace("http://127.0.0.1:8000/", f"http://127.0.0.1:{relay.port}/")
        ended = subprocess.run(["/bin/sh", "-c", local], capture_output=True, text=True, timeout=30)
        assert ended.returncode == 0, ended.stderr
        pattern = ".*".join(map(re.escape, expected.split(ELLIPSIS)))
        if re.fullmatch(pattern, ended.stdout.strip()) is None:
            pytest.fail(f"{command}\nanswered {ended.stdout}\nand not  {expected}")
