"""The Lua scripts, as the package puts them together; what they do is tested on a real Redis."""

import subprocess
import sys
from hashlib import sha1
from importlib.resources import files

import pytest
from relay_wire import keys, publications, scripts
from relay_wire.publications import Occurrence, Retention, ScriptCall

from relay.broker.ingest_block import IngestBlock

LUA = files("relay_wire").joinpath("lua")
NAMES = sorted(path.name.removesuffix(".lua") for path in LUA.iterdir() if path.name.endswith(".lua"))
FRAGMENTS = sorted(path.name.removesuffix(".lua") for path in LUA.joinpath("fragments").iterdir())

RETENTION = Retention()


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_complete_and_short(name: str) -> None:
    script = scripts.load(name)
    assert "@include" not in script.source
    assert not any(line.strip().startswith("--") for line in script.source.splitlines())
    assert script.sha == sha1(script.source.encode(), usedforsecurity=False).hexdigest()
    assert scripts.load(name) is script


def test_every_fragment_is_used() -> None:
    texts = [path.read_text() for path in (*LUA.iterdir(), *LUA.joinpath("fragments").iterdir()) if path.is_file()]
    assert [name for name in FRAGMENTS if not any(f"--@include {name}\n" in text for text in texts)] == []


def test_an_unknown_script_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        scripts.load("none")


def test_importing_reads_no_script() -> None:
    program = "import relay_wire.publications, relay_wire.scripts as s; print(s.load.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "0\n"


def calls() -> dict[str, ScriptCall]:
    fields = {"a": b"1", "b": b'"x"'}
    many = IngestBlock(RETENTION, 30)
    many.add("task:t", "task_update", b"{}", Occurrence("d", 1, 0, 30), fields, "failed")
    return {
        "publish": publications.publish_call("task:t", "task_update", b"{}", RETENTION, fields=fields),
        "publish with a key": publications.publish_call(
            "general", "general_update", b"{}", RETENTION, idempotency_key="k"
        ),
        "ingest": publications.ingest_call(
            "task:t", "task_update", b"{}", RETENTION, Occurrence("d", 1, 0, 30), fields=fields, status="failed"
        ),
        "ingest_many": many.script_call(),
        "create": publications.create_call("t", fields, b"{}", RETENTION, status="in_progress"),
        "ingest_created": publications.ingest_created_call("t", fields, b"{}", RETENTION, Occurrence("d", 1, 0, 30)),
        "heartbeat": publications.heartbeat_call("t", RETENTION),
        "mark_stalled": publications.mark_stalled_call("t", "1", "stalled", RETENTION),
    }


@pytest.mark.parametrize("name", list(calls()))
def test_the_keys_of_a_call_lie_in_one_slot(name: str) -> None:
    assert len({keys.tag_of(key) for key in calls()[name].keys}) == 1


def test_each_purpose_has_a_script_of_its_own() -> None:
    assert {name: call.script for name, call in calls().items()} == {
        name: scripts.load(name.partition(" ")[0]) for name in calls()
    }
