"""Tokens for the tests, and requests with them."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

import jwt

from tests.harness import RelayServer

SECRET = "a secret of the tests, which has 32 bytes and more"

#: Settings of a relay that asks for grants.
SETTINGS: dict[str, Any] = {"jwt_secret": SECRET}


def token(watch: dict[str, Any] | None = None, *, seconds: float = 600, **claims: Any) -> str:
    """A token that holds for some seconds; claims win over what is usual."""
    everything: dict[str, Any] = {"exp": time.time() + seconds, "relay": {"watch": watch or {}}}
    return jwt.encode(everything | claims, SECRET, "HS256")


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def call(
    relay: RelayServer, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: Any = None
) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    url = f"http://127.0.0.1:{relay.port}{path}"
    types = {} if body is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, types | (headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def publish_owned(relay_redis: Any, task_id: str, owner: list[str], **fields: Any) -> None:
    """A plain publish of a task that somebody owns."""
    message = {"type": "task_update", "task_id": task_id, "data": fields, "owner": owner, "timestamp": time.time()}
    relay_redis.publish("task_updates", json.dumps(message))
