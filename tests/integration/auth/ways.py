"""Clients by each way in, in one form: what they follow, what they receive of it, and how they are refused.

All of them follow the task FENCE as well. What is published on it comes after what was published before, so a client that has
received it has received everything else.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.harness import PATIENCE, RelayServer
from tests.integration.auth.tokens import bearer

FENCE = "fence"

_http = httpx.Client(timeout=PATIENCE, verify=False, limits=httpx.Limits(max_connections=None))

#: Updates by task: the numbers in their field `n`, in the order in which they came.
Received = dict[str, list[int]]


class Gone(Exception):
    """The relay has ended the connection, or did not let the client in. The argument is the close code or the status."""


class Follower(ABC):
    """A client.

    Args:
        relay: Where it connects.
    """

    #: Whether it subscribes, and shows another token, while it is connected.
    is_socket = True

    #: How it learns that its token has expired, and that it was revoked.
    expired: int = 4401
    revoked: int = 4403

    def __init__(self, relay: RelayServer) -> None:
        self.relay = relay
        self.received: Received = {}
        self._stack = ExitStack()

    @abstractmethod
    def start(self, token: str, tasks: Collection[str]) -> set[str]:
        """Connect, and follow tasks and the fence: from its positions, where it was there before. Returns those it may not.

        Raises:
            Gone: It was not let in.
        """

    @abstractmethod
    def read(self) -> None:
        """Take the next message. Raises Gone."""

    def close(self) -> None:
        """Hang up. Its positions stay."""
        self._stack.close()

    def take(self, fence: int) -> Received:
        """Return what it has received before a number of the fence, and forget it."""
        while self.received.get(FENCE, [0])[-1] < fence:
            self.read()
        received, self.received = self.received, {}
        del received[FENCE]
        return received

    def end(self) -> tuple[Received, int]:
        """Return what it still receives, and how the relay ends its connection."""
        try:
            while True:
                self.read()
        except Gone as gone:
            return self.received, gone.args[0]

    def _on_update(self, task: str, data: Any) -> None:
        self.received.setdefault(task, []).append(data["n"])


class _Socket(Follower):
    """A client with a WebSocket."""

    path = ""

    def __init__(self, relay: RelayServer) -> None:
        super().__init__(relay)
        self._positions: dict[str, Any] = {}
        #: The tasks whose subscriptions the relay has ended.
        self.ended: set[str] = set()

    def start(self, token: str, tasks: Collection[str]) -> set[str]:
        url = f"ws://127.0.0.1:{self.relay.port}{self.path}"
        self._connection = self._stack.enter_context(connect(url, open_timeout=PATIENCE))
        self.authenticate(token)
        return {task for task in (*tasks, FENCE) if not self.subscribe(task)}

    @abstractmethod
    def authenticate(self, token: str) -> None:
        """Show a token: the first, or another one, with which it keeps what that allows."""

    @abstractmethod
    def subscribe(self, task: str) -> bool:
        """Follow a task, from its position if it has one. Returns whether it may."""

    def _send(self, message: Any) -> None:
        self._connection.send(json.dumps(message))

    def _next(self) -> Any:
        try:
            return json.loads(self._connection.recv(PATIENCE))
        except ConnectionClosed as closed:
            raise Gone(closed.rcvd.code if closed.rcvd is not None else 1006) from None


class TasksSocket(_Socket):
    """A client of `/ws/tasks`."""

    path = "/ws/tasks"

    def authenticate(self, token: str) -> None:
        self._send({"type": "authenticate", "token": token})
        while (message := self._next())["type"] != "authenticated":
            self._on_message(message)

    def subscribe(self, task: str) -> bool:
        self._send({"type": "subscribe", "task_id": task, "position": self._positions.get(task)})
        while True:
            message = self._next()
            if message["type"] == "subscribed":
                assert message["task_id"] == task
                assert message.get("recovered", True), "nothing that it missed is gone"
                self._positions[task] = message["position"]
                return True
            if message["type"] == "error":
                assert (message["code"], message["task_id"]) == ("forbidden", task), message
                return False
            self._on_message(message)

    def read(self) -> None:
        self._on_message(self._next())

    def _on_message(self, message: Any) -> None:
        if message["type"] == "error":
            assert message["code"] in ("forbidden", "token_expired", "token_revoked"), message
            if "task_id" in message:
                self.ended.add(message["task_id"])
        elif message["type"] != "token_expires":
            assert message["type"] == "task_update", message
            self._positions[message["task_id"]] = message["position"]
            self._on_update(message["task_id"], message["data"])


class CentrifugeSocket(_Socket):
    """A client of the Centrifuge protocol."""

    path = "/connection/websocket"
    expired = 3005
    revoked = 3500

    def __init__(self, relay: RelayServer) -> None:
        super().__init__(relay)
        self._id = 0
        self._is_connected = False

    def close(self) -> None:
        super().close()
        self._is_connected = False

    def authenticate(self, token: str) -> None:
        answer = self.ask("refresh" if self._is_connected else "connect", {"token": token})
        if "error" in answer:
            assert answer["error"]["code"] == 109, answer
            raise Gone(self.expired)
        self._is_connected = True

    def subscribe(self, task: str) -> bool:
        position = self._positions.get(task)
        wanted = {"channel": f"task:{task}", "recoverable": True, "positioned": True}
        answer = self.ask("subscribe", wanted | ({} if position is None else {"recover": True, **position}))
        if "error" in answer:
            assert answer["error"]["code"] == 103, answer
            return False
        result = answer["subscribe"]
        assert position is None or result["recovered"], "nothing that it missed is gone"
        self._positions[task] = {"epoch": result["epoch"], "offset": result.get("offset", 0)}
        for publication in result.get("publications", ()):
            self._on_publication(task, publication)
        return True

    def publish(self, task: str, number: int) -> bool:
        """Publish an update. Returns whether it may."""
        answer = self.ask("publish", {"channel": f"task:{task}", "data": {"n": number}})
        return "error" not in answer

    def ask(self, method: str, request: Any) -> Any:
        """Return the answer to a command."""
        self._id += 1
        self._send({"id": self._id, method: request})
        while (message := self._next()).get("id") != self._id:
            self._on_push(message["push"])
        return message

    def read(self) -> None:
        self._on_push(self._next()["push"])

    def _on_push(self, push: Any) -> None:
        task = push["channel"].removeprefix("task:")
        if "unsubscribe" in push:
            self.ended.add(task)
        else:
            self._on_publication(task, push["pub"])

    def _on_publication(self, task: str, publication: Any) -> None:
        if "offset" in publication:
            self._positions[task]["offset"] = publication["offset"]
        self._on_update(task, publication["data"])


class _Stream(Follower):
    """A client of an event stream. Tokens end it without a code."""

    is_socket = False
    expired = revoked = 200

    path = ""

    def __init__(self, relay: RelayServer) -> None:
        super().__init__(relay)
        self._last_id = ""
        self._lines: Iterator[str] = iter(())

    def start(self, token: str, tasks: Collection[str]) -> set[str]:
        headers = bearer(token) | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        url = f"http://127.0.0.1:{self.relay.port}{self.path}"
        response = self._stack.enter_context(
            _http.stream("GET", url, params=self.query([*tasks, FENCE]), headers=headers)
        )
        if response.status_code == 403:
            assert json.loads(response.read())["code"] == "forbidden"
            self.close()
            return set(tasks)
        if response.status_code != 200:
            raise Gone(response.status_code)
        self._lines = response.iter_lines()
        return set()

    @abstractmethod
    def query(self, tasks: Collection[str]) -> Any:
        """Return the parameters of the request."""

    def read(self) -> None:
        name, data, last_id = "message", "", self._last_id
        for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data += value
            elif field == "id":
                last_id = value
            elif not line and data:
                break
        else:
            raise Gone(200)
        assert name in ("message", "task_update", "token_expires"), f"{name}: nothing that it missed is gone"
        self._last_id = last_id
        message = json.loads(data)
        if name != "token_expires":
            self._on_update(message["task_id"], message["data"])


class EventStream(_Stream):
    """A client of `/events`."""

    path = "/events"

    def query(self, tasks: Collection[str]) -> Any:
        return {"task": list(tasks)}


class MercureStream(_Stream):
    """A client of the Mercure hub."""

    path = "/.well-known/mercure"

    def query(self, tasks: Collection[str]) -> Any:
        return {"topic": [f"task:{task}" for task in tasks]}


WAYS: dict[str, Callable[[RelayServer], Follower]] = {
    "/ws/tasks": TasksSocket,
    "/events": EventStream,
    "Centrifuge": CentrifugeSocket,
    "Mercure": MercureStream,
}
