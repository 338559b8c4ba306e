"""The demonstration: everything comes up, tasks end, and nothing stays behind, however it ends."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from relay_jobs.examples import demo

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.harness import RedisServer, Server, eventually
from tests.kernel import process_is_gone
from tests.ports import free_port


class Demo(Server):
    """The demonstration, with its lines of JSON in a file."""

    name = "demo"

    def __init__(self, directory: Path, *arguments: str, **environ: str) -> None:
        super().__init__(directory)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
        self.lines = directory / "lines"
        with self.log.open("ab") as log, self.lines.open("wb") as lines:
            self._child = start_child(
                [sys.executable, "-m", "relay_jobs.examples.demo", "--plain", *arguments],
                env=inherited | {"RELAY_PORT": str(free_port()), "TMPDIR": str(directory)} | environ,
                cwd=directory,
                stdout=lines,
                stderr=log,
            )

    @property
    def updates(self) -> list[dict[str, Any]]:
        """What `relay tail` has shown."""
        return [json.loads(line) for line in self.lines.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def descendants(self) -> set[int]:
        """All processes that it has started, and those that these have."""
        found: set[int] = set()
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found.update(map(int, children))
            waiting += map(int, children)
        return found


def has_worked(running: Demo) -> bool:
    """Tasks are announced, and those of all kinds advance."""
    assert running.child.poll() is None, running.logged()
    advancing = {
        update["task_id"].partition("-")[0]
        for update in running.updates
        if update["type"] == "task_update" and update["data"].get("progress", 0) > 0
    }
    announced = [update["data"]["type"] for update in running.updates if update["type"] == "general_update"]
    return advancing == {"commission", "pipeline", "backup"} and "task_created" in announced


def test_it_runs_and_ends(tmp_path: Path) -> None:
    """On Ctrl-C, with success; it leaves no process and no file."""
    with Demo(tmp_path) as running:
        eventually(lambda: has_worked(running))
        processes = running.descendants()
        assert len(processes) == 5, "the relay, its Redis, two workers, relay tail"
        running.signal(signal.SIGINT)
        assert running.wait() == 0
        eventually(lambda: all(process_is_gone(pid) for pid in processes))
        assert {path.name for path in tmp_path.iterdir()} == {"server.log", "lines"}
        assert "Traceback" not in running.logged()


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    with Demo(tmp_path) as running:
        eventually(lambda: has_worked(running))
        processes = running.descendants()
        running.signal(signal.SIGKILL)
        running.wait()
        eventually(lambda: all(process_is_gone(pid) for pid in processes))


def test_with_a_relay_that_runs_already(tmp_path: Path, redis_server: RedisServer, start_relay: StartRelay) -> None:
    """It ends on SIGTERM, or on its own when its time is over."""
    relay = start_relay()
    with Demo(tmp_path, "--url", relay.url, REDIS_URL=redis_server.url) as running:
        eventually(lambda: running.updates)
        assert len(running.descendants()) == 3, "two workers, relay tail"
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    with Demo(tmp_path, "--url", relay.url, "--seconds", "0.2", REDIS_URL=redis_server.url) as running:
        assert running.wait() == 0


def test_it_needs_to_know_the_redis_of_a_relay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("REDIS_URL", "REDIS_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        demo.main(["--url", "ws://127.0.0.1:1/ws/tasks"])
    assert "REDIS_URL" in capsys.readouterr().err
