"""`relay tail`: lines of JSON in a pipe, a board on a terminal."""

import io
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
from relay_client.subscriber import Position, Update
from relay_client.tail.command import Recent, announced_task, run_tail, tasks_url
from relay_client.tail.errors import TailError
from relay_client.tail.progress_view import Board, printable
from rich.console import Console

from relay import cli
from relay.processes import Child, start_child
from tests.faults.proxy import Proxy
from tests.harness import PATIENCE, RedisServer, RelayServer, eventually


@pytest.fixture(scope="module")
def redis_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server:
        yield server


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, redis_home: RedisServer) -> Iterator[RelayServer]:
    """One for all tests; each starts from an empty Redis."""
    with RelayServer(tmp_path_factory.mktemp("relay"), redis_home.url, "serve") as server:
        yield server


@pytest.fixture
def redis(redis_home: RedisServer) -> RedisServer:
    redis_home.clear()
    return redis_home


class Tail:
    """A running `relay tail`, whose output goes into files."""

    def __init__(self, directory: Path, arguments: tuple[str, ...]) -> None:
        self._out, self._err = directory / "out", directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.child: Child = start_child(command(*arguments), stdout=out, stderr=err)

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

        def start(*arguments: str) -> Tail:
            tail = Tail(tmp_path, arguments)
            stack.callback(tail.child.wait)
            stack.callback(tail.child.kill)
            return tail

        yield start


StartTail = Callable[..., Tail]


async def test_lines_through_a_cut(redis: RedisServer, relay: RelayServer, start_tail: StartTail) -> None:
    """Each update once, in order, as the relay sent it; what is said of the connection is on stderr."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(relay.port)
        await nursery.start(proxy.run)
        url = f"ws://127.0.0.1:{proxy.port}/ws/tasks"
        tail = start_tail("--task", "demo", "--task", "other", "--url", url)

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


def test_all_tasks(redis: RedisServer, relay: RelayServer, start_tail: StartTail) -> None:
    """Those that are there, and those that are announced later."""
    for number in range(3):
        redis.publish_task(f"old{number}", status="in_progress", number=number)
    eventually(lambda: len(json.loads(relay.get("/api/tasks")[1])["tasks"]) == 3)
    tail = start_tail("--all", "--url", relay.url)
    eventually(tail.is_connected)

    def told(task_id: str) -> list[Any]:
        return [message["data"] for message in tail.messages if message.get("task_id") == task_id]

    eventually(lambda: all(told(f"old{number}") for number in range(3)))
    redis.publish_general(type="task_created", task_info={"task_id": 77, "status": "pending"})
    eventually(lambda: told("77"))
    redis.publish_task("77", status="completed")
    redis.publish_task("old1", status="failed")
    eventually(lambda: len(told("77")) == 2 and len(told("old1")) == 2)
    assert told("77") == [{"status": "pending"}, {"status": "completed"}]
    assert told("old1") == [{"status": "in_progress", "number": 1}, {"status": "failed"}]


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


@pytest.mark.parametrize(
    ("url", "task_ids", "everything", "told"),
    [
        ("http://127.0.0.1/ws/tasks", [], False, "ws://host"),
        ("ws://127.0.0.1", [""], False, "1 to 255 characters"),
        ("ws://127.0.0.1/other", [], True, "ends with /ws/tasks"),
    ],
)
def test_what_cannot_be_is_told(url: str, task_ids: list[str], everything: bool, told: str) -> None:
    with pytest.raises(TailError, match=told):
        run_tail(url, task_ids, everything=everything, as_json=True)


def test_a_refusal_is_one_line(
    relay: RelayServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["relay", "tail", "--url", relay.url.replace("tasks", "task")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"relay: .* HTTP status 404; .*", said.err.splitlines()[-1])


# On a terminal.


@contextmanager
def terminal(*arguments: str) -> Iterator[tuple[Child, Callable[[], str]]]:
    """A `relay tail` on a pseudo-terminal of 100 by 12, and what it has written so far."""
    main, secondary = pty.openpty()
    written = bytearray()
    environ = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "12"}
    environ.pop("NO_COLOR", None)
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


def test_board(redis: RedisServer, relay: RelayServer) -> None:
    with terminal("--task", "demo", "--task", "other", "--url", relay.url) as (child, output):
        eventually(lambda: "connected to" in output())
        redis.publish_task("demo", status="in_progress", stage="rendering", message="frame 3", progress=40)
        redis.publish_task("other", status="failed", error="out of \x1b[2Jpaint", progress=10)
        redis.publish_general(hello="world")
        eventually(lambda: all(text in output() for text in ("40%", "10%", "hello")))
        redis.publish_task("demo", status="completed", progress=100)
        eventually(lambda: "100%" in output() and "completed" in output())
        child.send_signal(signal.SIGINT)
        eventually(lambda: output() and child.poll() is not None)
        assert child.returncode == 130
        text = output()
    assert "rendering \N{MIDDLE DOT} frame 3" in text
    assert re.search(r"\x1b\[36m[━╸]+", text), "a running task's bar is cyan"
    assert re.search(r"\x1b\[32m━{10,}", text), "that of one that has completed is green"
    assert re.search(r"\x1b\[31mfailed", text)
    assert "\x1b[2J" not in text, "what services write is not obeyed"
    assert "out of \N{REPLACEMENT CHARACTER}[2Jpaint" in text
    assert "Traceback" not in text
    assert text.endswith("\x1b[?25h") or text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"


def update(task_id: str | None, **state: Any) -> Update:
    channel = "general" if task_id is None else f"task:{task_id}"
    kind: Any = "general_update" if task_id is None else "task_update"
    return Update(channel, kind, state, state, Position("e", 1), "{}")


def shown(board: Board, height: int = 12) -> list[str]:
    console = Console(width=100, height=height, record=True, file=io.StringIO())
    board._console = console
    console.print(board.board())
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_board_shows_what_runs_and_what_ended_last_as_far_as_it_fits() -> None:
    board = Board()
    for number in range(20):
        board.show(update(f"task{number}", status="in_progress", progress=number))
    for number in (3, 1, 2):
        board.show(update(f"task{number}", status="completed"))
    lines = shown(board, height=8)
    assert [line.split()[0] for line in lines[:-1]] == ["task0", "task4", "task5", "task6", "task7"]
    assert lines[-1] == "and 15 more"
    for number in range(20):
        if number not in (1, 2, 3, 7):
            board.forget(f"task{number}")
    assert [line.split()[:2] for line in shown(board)] == [
        ["task7", "in_progress"],
        ["task2", "completed"],
        ["task1", "completed"],
        ["task3", "completed"],
    ]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "t"),
        ({"status": "in_progress", "stalled": True, "progress": 5}, "t stalled 5%"),
        ({"status": "in_progress", "progress": 250}, "t in_progress 100%"),
        ({"status": "in_progress", "progress": -1}, "t in_progress 0%"),
        ({"status": "in_progress", "progress": "half"}, "t in_progress"),
        ({"status": "in_progress", "progress": True}, "t in_progress"),
        ({"status": "completed"}, "t completed 100%"),
        ({"status": 7, "message": ["a"]}, 't ["a"]'),
        ({"status": "cancelled", "message": "[red]no markup[/red]"}, "t cancelled [red]no markup[/red]"),
        ({"status": "failed", "error": "why", "stage": "s", "message": "m"}, "t failed why · s · m"),
    ],
)
def test_board_takes_any_state(state: dict[str, Any], text: str) -> None:
    board = Board()
    board.show(update("t", **state))
    [line] = shown(board)
    assert re.sub(r"[━╸╺ ]+", " ", line).strip() == text


async def test_board_leaves_out_what_nobody_could_read() -> None:
    console = Console(width=100, height=12, record=True, force_terminal=True, file=io.StringIO())
    board = Board(console)
    for number in range(80):
        board.show(update(None, n=number))
    async with trio.open_nursery() as nursery:
        await nursery.start(board.run)
        nursery.cancel_scope.cancel()
    text = console.export_text()
    assert "# 30 lines left out" in text
    assert '{"n": 29}' not in text
    assert '{"n": 30}' in text
    assert '{"n": 79}' in text


def test_printable() -> None:
    assert printable("a\nb\x1b[0m\x9b\u202ec ü☃") == "a�b�[0m��c ü☃"
    assert printable({"a": "é"}) == '{"a": "é"}'


# Which tasks.


def test_the_least_recent_goes() -> None:
    recent = Recent(3, ["pinned"])
    assert [recent.add_older(task_id) for task_id in ("c", "b", "c", "pinned", "a", "too much")] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert recent.touch("pinned") == (False, None)
    assert recent.touch("a") == (False, None)
    assert recent.touch("d") == (True, "b")
    assert recent.touch("e") == (True, "c")
    assert recent.touch("a") == (False, None)
    assert recent.touch("f") == (True, "d")


@pytest.mark.parametrize(
    ("data", "task_id"),
    [
        ({"type": "task_created", "task_info": {"task_id": "t"}}, "t"),
        ({"type": "task_created", "task_info": {"task_id": 7}}, "7"),
        ({"type": "task_created", "task_info": {"task_id": ""}}, None),
        ({"type": "task_created", "task_info": {"task_id": "x" * 256}}, None),
        ({"type": "task_created", "task_info": {"task_id": True}}, None),
        ({"type": "task_created", "task_info": []}, None),
        ({"type": "task_created"}, None),
        ({"type": "weather", "task_info": {"task_id": "t"}}, None),
    ],
)
def test_announcements(data: dict[str, Any], task_id: str | None) -> None:
    assert announced_task(update(None, **data)) == task_id


def test_where_tasks_are_listed() -> None:
    assert tasks_url("ws://h:1/ws/tasks") == "http://h:1/api/tasks?limit=200"
    assert tasks_url("wss://h/relay/ws/tasks?x=y") == "https://h/relay/api/tasks?limit=200"
    assert tasks_url("ws://h") == "http://h/api/tasks?limit=200"
    with pytest.raises(TailError, match="/ws/tasks"):
        tasks_url("ws://h/other")
