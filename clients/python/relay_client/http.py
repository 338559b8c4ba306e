"""Publishing over HTTP, for programs that reach a relay and not its Redis. Needs nothing but Python's standard library.

with Publisher("https://relay.example", key="relay_...") as publisher:
    publisher.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
"""

import json
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

from relay_wire.channels import GENERAL, MAX_NAME_LENGTH, TASK_PREFIX
from relay_wire.creation import CreationOptions, creation_options
from relay_wire.position import Position
from relay_wire.trace_context import TRACEPARENT

from relay_client import tracing
from relay_client.backoff import full_jitter
from relay_client.encoding import encode, encode_fields, join_fields
from relay_client.errors import DeliveryRefused, DeliveryTimedOut
from relay_client.tracing import UpdateSpan

_DEFAULT_URL = "http://127.0.0.1:8000"

#: Seconds between two tries: at first, and at most.
_BASE_DELAY, _MAX_DELAY = 0.1, 5.0

#: Longest answer that is read, in bytes.
_MAX_ANSWER = 1 << 20

#: Statuses of a relay after which the same request may succeed.
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Statuses of requests that no relay takes: their content is wrong. Others are a matter of rights, or of other updates.
_MALFORMED = frozenset({400, 404, 405, 411, 413, 415})


class _Answer(NamedTuple):
    status: int
    body: Mapping[str, Any]
    retry_after: float


class Publisher:
    """`relay_client.Publisher` over HTTP, from any number of threads. Making one does not connect.

    Each call waits until the relay has confirmed that Redis has the update. What is not confirmed is tried again until the
    deadline, under the same idempotency key: it is published once. Calls of different threads do not wait for each other.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        api_prefix: str = "/api",
        deadline: float = 15.0,
        timeout: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Make a publisher.

        Args:
            url: The relay's root, such as ``https://relay.example``; by default that in ``RELAY_URL``, or a relay on this
                machine.
            key: An API key or a token, if the relay asks for one.
            api_prefix: The path before ``/tasks``, below the root.
            deadline: Seconds for which a call is tried; at most 150: a relay remembers idempotency keys for twice as long.
            timeout: Seconds for one try.
            ssl_context: Which authorities to trust; by default those of the system.

        Raises:
            ValueError: An argument cannot be right.
        """
        parts = urlsplit(url or os.environ.get("RELAY_URL") or _DEFAULT_URL)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        if scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError("a relay's URL is of the form https://host or http://host:8000, without a password")
        if not 0 < timeout <= deadline <= 150:
            raise ValueError("timeout and deadline are in seconds: 0 < timeout <= deadline <= 150")
        self._host, self._port = parts.hostname, parts.port
        self._root = parts.path.rstrip("/").removesuffix("/ws/tasks") + api_prefix
        self._context = (ssl_context or ssl.create_default_context()) if scheme == "https" else None
        self._deadline, self._timeout = deadline, timeout
        self._headers = {"Content-Type": "application/json"} | (
            {} if key is None else {"Authorization": f"Bearer {key}"}
        )
        # Taken by a call, and put back after it: appending and popping are atomic, so that no lock is held in a signal handler.
        self._idle: list[HTTPConnection] = []
        self._pid = os.getpid()

    def publish_task_update(
        self,
        task_id: str | int,
        update: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> Position:
        """Publish the fields of a task that changed. The first update creates the task.

        Args:
            task_id: Id of the task, 1 to 255 characters.
            update: Fields that changed, by name; values that JSON has a form for.
            idempotency_key: Two updates of a task with the same key within five minutes are published once.
            owner: The user or group that owns the task, or several; an empty list for nobody.
            parent_id: The id of the task's parent.

        Returns:
            The update's position in the task's channel.

        Raises:
            DeliveryTimedOut: The relay has not confirmed it by the deadline.
            DeliveryRefused: The relay refuses it, for instance because the key does not allow it.
            ValueError, TypeError: It cannot be published.
        """
        options = creation_options(owner, parent_id, task_id=str(task_id))
        return self._publish(self._path_of(task_id), f"{TASK_PREFIX}{task_id}", update, options, idempotency_key)

    def publish_general_update(self, update: Mapping[str, Any], *, idempotency_key: str | None = None) -> Position:
        """Publish an update for every client; as `publish_task_update`."""
        return self._publish("/general", GENERAL, update, CreationOptions(), idempotency_key)

    def publish(self, channel: str, data: Mapping[str, Any], *, idempotency_key: str | None = None) -> Position:
        """Publish on a channel by its name: ``task:<id>``, ``general``, or one of the relay's extra channels."""
        if channel.startswith(TASK_PREFIX):
            return self.publish_task_update(channel[len(TASK_PREFIX) :], data, idempotency_key=idempotency_key)
        if channel == GENERAL:
            return self.publish_general_update(data, idempotency_key=idempotency_key)
        path = f"/channels/{quote(_checked('channel', channel), safe='')}"
        return self._publish(path, channel, data, CreationOptions(), idempotency_key)

    def heartbeat(self, task_id: str | int) -> bool:
        """Note that a task lives, although it reports nothing. False if there is no such task. Raises as the others."""
        answer = self._request(f"{self._path_of(task_id)}/heartbeat", f"{TASK_PREFIX}{task_id}", b"", {})
        return answer.status != 404

    def cancel(self, task_id: str | int, reason: str = "") -> bool:
        """Request a task's end. False if it has ended, or does not exist. Raises as the others."""
        body = encode({"reason": reason})
        answer = self._request(f"{self._path_of(task_id)}/cancel", f"{TASK_PREFIX}{task_id}", body, {})
        return answer.body.get("outcome") == "cancel_requested"

    def close(self) -> None:
        """Close the connections that no call uses."""
        while self._idle:
            with suppress(IndexError):  # another thread has taken it
                self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _path_of(task_id: str | int) -> str:
        return f"/tasks/{quote(_checked('task id', str(task_id)), safe='')}"

    def _publish(
        self, path: str, channel: str, update: Mapping[str, Any], options: CreationOptions, key: str | None
    ) -> Position:
        body = b'{"data":%b' % join_fields(encode_fields(update))
        if options.owner is not None:
            body += b',"owner":%b' % encode(sorted(options.owner))
        if options.parent_id is not None:
            body += b',"parent_id":%b' % encode(options.parent_id)
        headers = {"Idempotency-Key": key or uuid4().hex}
        span = tracing.begin_publish(channel)
        if span is None:
            answer = self._request(path, channel, body + b"}", headers)
        else:
            answer = self._request_traced(path, channel, body + b"}", headers, span)
        if answer.status == 404:
            raise ValueError(_message(answer))
        position = answer.body["position"]
        return Position(position["epoch"], position["offset"])

    def _request_traced(
        self, path: str, channel: str, body: bytes, headers: Mapping[str, str], span: UpdateSpan
    ) -> _Answer:
        try:
            answer = self._request(path, channel, body, {**headers, TRACEPARENT: span.traceparent})
        except Exception as error:
            span.end(error)
            raise
        span.end()
        return answer

    def _request(self, path: str, channel: str, body: bytes, headers: Mapping[str, str]) -> _Answer:
        """Return the answer to a request, of 2xx or 404; try until there is one."""
        deadline = monotonic() + self._deadline
        attempt = 0
        may_have_arrived = False
        while True:
            failure: Exception | str
            pause = full_jitter(attempt, _BASE_DELAY, _MAX_DELAY)
            try:
                answer = self._exchange(path, body, headers, min(self._timeout, max(0.05, deadline - monotonic())))
            except (OSError, HTTPException) as error:
                failure = error
                may_have_arrived = may_have_arrived or not isinstance(error, ConnectionRefusedError)
            else:
                if answer.status == 204 or (answer.body and (answer.status < 300 or answer.status == 404)):
                    return answer
                if answer.body and answer.status in _MALFORMED:
                    raise ValueError(_message(answer))
                if answer.body and answer.status not in _RETRYABLE:
                    raise DeliveryRefused(_message(answer), channel)
                failure, pause = _message(answer), max(pause, answer.retry_after)
                may_have_arrived = may_have_arrived or answer.body.get("code") == "outcome_unknown"
            if monotonic() + pause >= deadline:
                message = f"the relay has not confirmed it within {self._deadline:g} s: {failure}"
                raise DeliveryTimedOut(message, channel, may_have_arrived=may_have_arrived)
            attempt += 1
            time.sleep(pause)

    def _exchange(self, path: str, body: bytes, headers: Mapping[str, str], timeout: float) -> _Answer:
        """Send a request once. Raises OSError or HTTPException."""
        connection = self._connection(timeout)
        try:
            connection.request("POST", self._root + path, body, {**self._headers, **headers})
            response = connection.getresponse()
            content = response.read(_MAX_ANSWER)
            answer = _Answer(response.status, _json(content), _retry_after(response))
        except BaseException:
            connection.close()
            raise
        if response.isclosed() and connection.sock is not None:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _connection(self, timeout: float) -> HTTPConnection:
        if self._pid != os.getpid():  # a forked child must not use its parent's sockets
            self._idle, self._pid = [], os.getpid()
        with suppress(IndexError):
            connection = self._idle.pop()
            connection.sock.settimeout(timeout)
            return connection
        if self._context is None:
            return HTTPConnection(self._host, self._port, timeout=timeout)
        return HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)


def _checked(what: str, name: str) -> str:
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"a {what} has 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")
    return name


def _json(content: bytes) -> Mapping[str, Any]:
    """Return an answer's body; empty where it is no JSON object, as from a proxy."""
    with suppress(ValueError, RecursionError):
        body = json.loads(content)
        if isinstance(body, dict):
            return body
    return {}


def _message(answer: _Answer) -> str:
    return f"{answer.status} {answer.body.get('code', '')}: {answer.body.get('message', 'not an answer of a relay')}"


def _retry_after(response: HTTPResponse) -> float:
    value = response.getheader("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
