"""The tables of older forms in docs/protocol.md, row by row: what a relay makes of each, and what the services did before."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.harness import PATIENCE, ROOT, RedisServer, RelayServer, Server, eventually
from tests.ports import free_port

MANAGER = Path(__file__).parent / "apps" / "former_manager.py"

#: More messages than RELAY_MAX_CLIENT_ERRORS, and as many as a client may send at once.
OFTEN = 100

SECTION = (ROOT / "docs" / "protocol.md").read_text().split("\n## Older forms\n")[1].split("\n## ")[0]


def rows(columns: int) -> list[list[str]]:
    """The cells of the section's table that has so many columns; without the head."""
    lines = [line.strip("|").split("|") for line in SECTION.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line] for line in lines]
    return [cells for cells in found if len(cells) == columns and "`" in cells[1]]


def code_in(cell: str) -> str:
    [code] = re.findall(r"`(.*)`", cell)
    return str(code)


def decoded(text: str | bytes) -> Any:
    """JSON with those numbers that it does not have as texts, so that they equal themselves."""
    return json.loads(text, parse_constant=str)


class FormerManager(Server):
    """The service that Relay replaces."""

    name = "former manager"

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        super().__init__(directory)
        self.port = free_port()
        command = [sys.executable, str(MANAGER), redis.url, str(self.port)]
        with self.log.open("ab") as log:
            self._child = start_child(command, stdout=log, stderr=subprocess.STDOUT)
        eventually(self._is_up)

    def _is_up(self) -> bool:
        assert self.child.poll() is None, self.logged()
        try:
            with self.connect():
                return True
        except OSError:
            return False

    def connect(self) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/ws/tasks", open_timeout=PATIENCE)


@pytest.fixture
def manager(redis_server: RedisServer, tmp_path: Path) -> Iterator[FormerManager]:
    directory = tmp_path / "manager"
    directory.mkdir()
    with FormerManager(directory, redis_server) as running:
        yield running


class Follower:
    """A client that follows the tasks ``t`` and ``7`` of a service, and a way to publish to that service alone."""

    def __init__(self, connection: ClientConnection, redis: RedisServer) -> None:
        self._connection = connection
        self._redis = redis
        for task_id in ("t", "7"):
            connection.send(json.dumps({"type": "subscribe", "task_id": task_id}))
            assert decoded(connection.recv(PATIENCE))["type"] == "subscribed"

    def frames_of(self, channel: str, message: str) -> list[Any]:
        """Publish a message, and one that is known to come behind it; return what comes before that."""
        marker = {"marker": message}
        update = {"task_id": "t", "type": "task_update" if channel == "task_updates" else "general_update"}
        for each in (message, json.dumps({**update, "data": marker})):
            assert self._redis.publish(channel, each) == 1
        frames: list[Any] = []
        while not frames or frames[-1]["data"] != marker:
            frames.append(decoded(self._connection.recv(PATIENCE)))
        return frames[:-1]


def test_what_a_websocket_manager_sends(redis_server: RedisServer, manager: FormerManager) -> None:
    with manager.connect() as connection:
        follower = Follower(connection, redis_server)
        for form, channel, message, sends, _, _ in rows(6):
            assert follower.frames_of(code_in(channel), code_in(message)) == frames_in(sends), form


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
def test_what_a_relay_sends(strict: bool, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(strict_publishes=strict)
    table = rows(6)
    assert len(table) > 30
    with relay.client() as client:
        follower = Follower(client.connection, shared_redis)
        for form, channel, message, manager, lenient, strictly in table:
            cell = manager if lenient == "the same" else lenient
            if strict and strictly != "the same":
                cell = strictly
            before = refusals(relay)
            assert follower.frames_of(code_in(channel), code_in(message)) == frames_in(cell), form
            new = {code for code, count in refusals(relay).items() if count != before.get(code)}
            assert new == ({code_in(cell)} if cell.startswith("refuses: ") else set()), form


def frames_in(cell: str) -> list[Any]:
    """The frame that a cell shows, if it shows one."""
    return [decoded(code_in(cell))] if cell.startswith("`") else []


def refusals(relay: RelayServer) -> dict[str, str]:
    """How many messages a relay has refused, by the reason."""
    return dict(
        re.findall(r'^relay_updates_invalid_total{code="(\w+)"} (\S+)$', relay.get("/metrics")[1], re.MULTILINE)
    )


def answer_to(connection: ClientConnection, message: str) -> Any:
    """What comes before the pong to a ping that is sent right behind a message: a frame, "nothing", or "closes"."""
    connection.send(message)
    try:
        connection.send('{"type":"ping"}')
        answer = decoded(connection.recv(PATIENCE))
        if answer["type"] == "pong":
            return "nothing"
        assert decoded(connection.recv(PATIENCE))["type"] == "pong"
    except ConnectionClosed:
        return "closes"
    return answer


def test_what_a_websocket_manager_answers(manager: FormerManager) -> None:
    for form, message, answers, _, _ in rows(5):
        with manager.connect() as connection:
            expected = decoded(code_in(answers)) if answers.startswith("`") else answers
            assert answer_to(connection, code_in(message)) == expected, form


def test_what_a_relay_answers_and_how_often(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay()
    table = rows(5)
    assert len(table) > 10
    for form, message, manager, cell, counts in table:
        with relay.client() as client:
            connection = client.connection
            answer = answer_to(connection, code_in(message))
            if cell.startswith("error"):
                assert (answer["type"], answer["code"]) == ("error", code_in(cell)), form
            else:
                assert answer == decoded(code_in(manager if cell == "the same" else cell)), form
            assert counts == ("no" if stays_after(connection, code_in(message)) else "yes"), form


def stays_after(connection: ClientConnection, message: str) -> bool:
    """Whether the client stays connected though it sends a message often; otherwise it is dropped for its errors."""
    try:
        for _ in range(OFTEN):
            connection.send(message)
        connection.send('{"type":"ping"}')
        while decoded(connection.recv(PATIENCE))["type"] != "pong":
            pass
    except ConnectionClosed:
        return (connection.close_code, connection.close_reason) != (1008, "too many malformed messages")
    return True
