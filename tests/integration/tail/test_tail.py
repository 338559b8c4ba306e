"""`relay tail`: lines of JSON in a pipe, progress bars on a terminal, and how it ends."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from relay_client.tail.command import run_tail
from relay_client.tail.errors import ExitStatus, TailError

from relay import cli
from relay.processes import Child, start_child
from tests.conftest import StartRelay
from tests.faults.proxy import Proxy
from tests.harness import PATIENCE, ROOT, RedisServer, RelayServer, eventually
from tests.preloaded import start_program


@pytest.fixture(scope="module")
def redis_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server:
        yield server


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, redis_home: RedisServer) -> Iterator[RelayServer]:
    """One for all tests that leave it as it was; each starts from an empty Redis."""
    with RelayServer(tmp_path_factory.mktemp("relay"), redis_home.url, "serve") as server:
        yield server


@pytest.fixture
def redis(redis_home: RedisServer) -> RedisServer:
    redis_home.clear()
    return redis_home


class Tail:
    """A running `relay tail`, whose output goes into files."""

    def __init__(self, directory: Path, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        self._out, self._err = directory / "out", directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.child = start_program(["relay.cli", "tail", *arguments], os.environ | environ, out, ROOT, err)

    @property
    def messages(self) -> list[Any]:
        return [json.loads(line) for line in self._out.read_text().splitlines()]

    @property
    def remarks(self) -> list[str]:
        return self._err.read_text().splitlines()

    def is_connected(self) -> bool:
        assert self.child.poll() is None, self.remarks
        return any(line.startswith("# connected to ws://127.0.0.1:") for line in self.remarks)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "relay.cli", "tail", *arguments]


@pytest.fixture
def start_tail(tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    with ExitStack() as stack:

        def start(*arguments: str, **environ: str) -> Tail:
            tail = Tail(tmp_path, arguments, environ)
            stack.callback(tail.child.wait)
            stack.callback(tail.child.kill)
            return tail

        yield start


StartTail = Callable[..., Tail]


async def test_lines_through_a_cut(redis: RedisServer, relay: RelayServer, start_tail: StartTail) -> None:
    """Each update once, in order, as the relay sent it; remarks about the connection are on stderr."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(relay.port)
        await nursery.start(proxy.run)
        url = f"ws://127.0.0.1:{proxy.port}/ws/tasks"
        tail = start_tail("--task", "demo", "--task", "other", "--general", "--url", url)

        async def until(check: Callable[[], bool]) -> None:
            with trio.fail_after(PATIENCE):
                while not check():  # noqa: ASYNC110 - it is another process
                    await trio.sleep(0.02)

        await until(tail.is_connected)
        redis.publish_task("demo", status="in_progress", progress=1)
        await until(lambda: len(tail.messages) == 1)
        redis.publish_general(hello="world")
        redis.publish_task("nobodys", progress=1)
        await until(lambda: len(tail.messages) == 2)
        nursery.start_soon(proxy.cut, 0.5)
        redis.publish_task("demo", progress=2)
        redis.publish_task("demo", status="completed")
        await until(lambda: len(tail.messages) == 4)
        nursery.cancel_scope.cancel()
    positions = [message.pop("position")["offset"] for message in tail.messages if message["type"] == "task_update"]
    assert positions == [1, 2, 3]
    assert sorted(json.dumps(message["data"]) for message in tail.messages) == [
        '{"hello": "world"}',
        '{"progress": 2}',
        '{"status": "completed"}',
        '{"status": "in_progress", "progress": 1}',
    ]
    assert all(line.startswith("# ") for line in tail.remarks)
    assert any("the connection broke; trying again in" in line for line in tail.remarks)
    assert sum("connected to" in line for line in tail.remarks) == 2
    tail.child.send_signal(signal.SIGINT)
    assert tail.child.wait(PATIENCE) == 130


@pytest.mark.parametrize("prefix", ["/api", "/relay/api"])
def test_all_tasks(prefix: str, redis: RedisServer, start_relay: StartRelay, start_tail: StartTail) -> None:
    """Those that are there, and those that are announced later."""
    relay = start_relay("serve", redis_url=redis.url, api_prefix=prefix)
    for number in range(3):
        redis.publish_task(f"old{number}", status="in_progress", number=number)
    eventually(lambda: len(json.loads(relay.get(f"{prefix}/tasks")[1])["tasks"]) == 3)
    tail = start_tail("--all", "--url", relay.url, RELAY_API_PREFIX=prefix)
    eventually(tail.is_connected)

    def updates_of(task_id: str) -> list[Any]:
        return [message["data"] for message in tail.messages if message.get("task_id") == task_id]

    eventually(lambda: all(updates_of(f"old{number}") for number in range(3)))
    redis.publish_general(type="task_created", task_info={"task_id": 77, "status": "pending"})
    eventually(lambda: updates_of("77"))
    redis.publish_task("77", status="completed")
    redis.publish_task("old1", status="failed")
    eventually(lambda: len(updates_of("77")) == 2 and len(updates_of("old1")) == 2)
    assert updates_of("77") == [{"status": "pending"}, {"status": "completed"}]
    assert updates_of("old1") == [{"status": "in_progress", "number": 1}, {"status": "failed"}]


def test_lost_updates_are_told(redis: RedisServer, relay: RelayServer, start_tail: StartTail) -> None:
    tail = start_tail("--task", "t", "--url", relay.url)
    eventually(tail.is_connected)
    redis.publish_task("t", a=1)
    eventually(lambda: len(tail.messages) == 1)
    with redis.client() as client:
        client.flushall()
    redis.publish_task("t", a=2)
    eventually(lambda: tail.messages[-1].get("data") == {"a": 2})
    assert [message["type"] for message in tail.messages] == ["task_update", "subscribed", "task_update"]
    assert tail.messages[1]["recovered"] is False
    assert "# some updates were lost: task:t" in tail.remarks


def test_head_ends_it_quietly(redis: RedisServer, relay: RelayServer) -> None:
    redis.publish_task("t", n=0)
    with start_child(
        command("--task", "t", "--url", relay.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stderr is not None
            assert json.loads(child.stdout.readline())["data"] == {"n": 0}
            child.stdout.close()
            numbers = iter(range(1, 10_000))
            eventually(lambda: redis.publish_task("t", n=next(numbers)) and child.poll() is not None)
            assert child.wait() == 0
            assert all(line.startswith(b"# ") for line in child.stderr.read().splitlines())
        finally:
            child.kill()


def ended(tail: Tail) -> int:
    return tail.child.wait(PATIENCE)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("completed", ExitStatus.SUCCESS), ("failed", ExitStatus.TASK_FAILED), ("cancelled", ExitStatus.TASK_CANCELLED)],
)
def test_it_ends_with_its_tasks(
    outcome: str, status: ExitStatus, redis: RedisServer, relay: RelayServer, start_tail: StartTail
) -> None:
    """Also with those that had ended before."""
    redis.publish_task("before", status="completed")
    tail = start_tail("--task", "t", "--task", "before", "--url", relay.url)
    eventually(lambda: tail.messages)
    redis.publish_task("t", status="in_progress")
    eventually(lambda: len(tail.messages) == 2)
    assert tail.child.poll() is None
    redis.publish_task("t", status=outcome)
    assert ended(tail) == status
    assert [message["data"]["status"] for message in tail.messages] == ["completed", "in_progress", outcome]


def test_it_goes_on_if_told_to(redis: RedisServer, relay: RelayServer, start_tail: StartTail) -> None:
    redis.publish_task("t", status="completed")
    tail = start_tail("--task", "t", "--follow", "--url", relay.url)
    eventually(lambda: tail.messages)
    redis.publish_task("t", extra=1)
    eventually(lambda: len(tail.messages) == 2)
    tail.child.send_signal(signal.SIGINT)
    assert ended(tail) == 130


def test_it_says_when_redis_is_away(redis_server: RedisServer, start_relay: StartRelay, start_tail: StartTail) -> None:
    """Both before and after the subscription."""
    relay = start_relay("serve")
    redis_server.kill()
    tail = start_tail("--task", "t", "--url", relay.url)
    eventually(lambda: "# the relay cannot reach Redis" in tail.remarks)
    eventually(lambda: any(line.startswith("# the relay is not ready: ") for line in tail.remarks))
    redis_server.start()
    eventually(lambda: "# the relay can reach Redis again" in tail.remarks)
    eventually(lambda: "# the relay is ready again" in tail.remarks)
    redis_server.kill()
    eventually(lambda: sum(line.startswith("# the relay is not ready: ") for line in tail.remarks) > 1)
    redis_server.start()
    eventually(lambda: tail.remarks.count("# the relay is ready again") > 1)
    redis_server.publish_task("t", status="completed")
    assert ended(tail) == 0


def test_relay_url(redis: RedisServer, relay: RelayServer, start_tail: StartTail) -> None:
    redis.publish_task("t", status="completed")
    tail = start_tail("--task", "t", RELAY_URL=f"http://127.0.0.1:{relay.port}/")
    assert ended(tail) == 0
    assert tail.messages


@pytest.mark.parametrize(
    ("url", "task_ids", "all_tasks", "complaint"),
    [
        ("ftp://127.0.0.1/ws/tasks", [], False, "--url: .*ws://host"),
        ("ws://127.0.0.1", [""], False, "--task: .*1 to 255 characters"),
        ("ws://127.0.0.1/other", [], True, "ends with /ws/tasks"),
    ],
)
def test_wrong_arguments(url: str, task_ids: list[str], all_tasks: bool, complaint: str) -> None:
    with pytest.raises(TailError, match=complaint) as error:
        run_tail(url, task_ids, all_tasks=all_tasks, as_json=True)
    assert error.value.status == ExitStatus.USAGE


def test_a_refusal_is_one_line(
    relay: RelayServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["relay", "tail", "--url", relay.url.replace("tasks", "task")])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == ExitStatus.REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"relay: .*HTTP status 404; .*", printed.err.splitlines()[-1])


# On a terminal.


@contextmanager
def terminal(*arguments: str, **environ: str) -> Iterator[tuple[Child, Callable[[], str]]]:
    """A `relay tail` on a pseudo-terminal of 100 by 12, and what it has written so far."""
    main, secondary = pty.openpty()
    written = bytearray()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environ = inherited | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "12"} | environ
    child = start_child(command(*arguments), stdin=secondary, stdout=secondary, stderr=secondary, env=environ)
    os.close(secondary)

    def output() -> str:
        while select.select([main], [], [], 0)[0]:
            try:
                written.extend(os.read(main, 65536))
            except OSError:  # the other end has gone
                break
        return written.decode(errors="replace")

    try:
        yield child, output
    finally:
        child.kill()
        child.wait()
        os.close(main)


def test_progress_bars(redis: RedisServer, relay: RelayServer) -> None:
    with terminal("--task", "demo", "--task", "other", "--general", "--url", relay.url) as (child, output):
        eventually(lambda: "connected to" in output())
        redis.publish_task("demo", status="in_progress", stage="rendering", message="frame 3", progress=40)
        redis.publish_task("other", status="failed", error="out of \x1b[2Jpaint", progress=10)
        redis.publish_general(hello="world")
        eventually(lambda: all(text in output() for text in ("40%", "10%", "hello")))
        redis.publish_task("demo", status="completed", progress=100)
        eventually(lambda: child.poll() is not None)
        assert child.returncode == ExitStatus.TASK_FAILED
        text = output()
    assert "100%" in text
    assert "rendering \N{MIDDLE DOT} frame 3" in text
    assert re.search(r"\x1b\[36m[━╸]+", text), "a running task's bar is cyan"
    assert re.search(r"\x1b\[32m━{10,}", text), "that of one that has completed is green"
    assert re.search(r"\x1b\[31mfailed", text)
    assert "\x1b[2J" not in text, "what services write is not obeyed"
    assert "out of \N{REPLACEMENT CHARACTER}[2Jpaint" in text
    assert "Traceback" not in text
    assert text.endswith("\x1b[?25h") or text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"


def test_ctrl_c_leaves_the_terminal_in_order(relay: RelayServer) -> None:
    with terminal("--task", "not-created", "--url", relay.url) as (child, output):
        eventually(lambda: "connected to" in output() and "\x1b[?25l" in output())
        child.send_signal(signal.SIGINT)
        eventually(lambda: output() and child.poll() is not None)
        assert child.returncode == 130, output()
        text = output()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
    assert "Traceback" not in text


def test_no_color(redis: RedisServer, relay: RelayServer) -> None:
    redis.publish_task("demo", status="failed", progress=40)
    with terminal("--task", "demo", "--url", relay.url, NO_COLOR="1") as (child, output):
        eventually(lambda: child.poll() is not None)
        text = output()
    assert "failed" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text)


def test_a_terminal_that_cannot_redraw_gets_lines(redis: RedisServer, relay: RelayServer) -> None:
    redis.publish_task("demo", status="completed")
    with terminal("--task", "demo", "--url", relay.url, TERM="dumb") as (child, output):
        eventually(lambda: child.poll() is not None)
        assert '{"type":"task_update"' in output()
