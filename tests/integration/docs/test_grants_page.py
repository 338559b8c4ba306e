"""docs/grants.md: the backends there run, and their tokens let a user in to that user's tasks and to no others."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.harness import PATIENCE, ROOT, RedisServer, eventually
from tests.ports import free_port

PAGE = (ROOT / "docs" / "grants.md").read_text()
SECRET = "0123456789abcdef0123456789abcdef"

#: The application's own part: here a user is whom a header names.
ACCOUNTS = {
    "FastAPI": """
from fastapi import Header, HTTPException

def current_user_id(x_user: str = Header("")) -> int:
    if not x_user:
        raise HTTPException(401)
    return int(x_user)
""",
    "Flask": """
from flask import Request, abort

def current_user_id(request: Request) -> int:
    return int(request.headers.get("x-user") or abort(401))
""",
    "Django": """
from types import SimpleNamespace

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application

class Users:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        user_id = request.headers.get("x-user")
        request.user = SimpleNamespace(pk=user_id, is_authenticated=user_id is not None)
        return self.get_response(request)

settings.configure(
    ROOT_URLCONF="example",
    MIDDLEWARE=["accounts.Users"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="x",
)
django.setup()
application = get_wsgi_application()
""",
}

WSGI = "import {0} as m; from wsgiref.simple_server import make_server; make_server('127.0.0.1', {2}, m.{1}).serve_forever()"


def example_of(framework: str) -> str:
    found = re.search(rf"^### {framework}\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def command_of(framework: str, port: int) -> list[str]:
    match framework:
        case "FastAPI":
            return [sys.executable, "-m", "uvicorn", "--port", str(port), "example:app"]
        case "Flask":
            return [sys.executable, "-c", WSGI.format("example", "app", port)]
        case _:
            return [sys.executable, "-c", WSGI.format("accounts", "application", port)]


@contextmanager
def backend(framework: str, directory: Path) -> Iterator[str]:
    """The example as a server of its own; its URL."""
    (directory / "example.py").write_text(example_of(framework))
    (directory / "accounts.py").write_text(ACCOUNTS[framework])
    port = free_port()
    environ = os.environ | {"RELAY_JWT_SECRET": SECRET}
    with (directory / "backend.log").open("wb") as log:
        child = start_child(
            command_of(framework, port), cwd=directory, env=environ, stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert child.poll() is None, (directory / "backend.log").read_text()
        try:
            return bool(httpx.get(url).status_code)
        except httpx.TransportError:
            return False

    try:
        eventually(is_up)
        yield url
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("framework", ACCOUNTS)
def test_a_backend_lets_its_user_see_these_tasks_and_no_others(
    framework: str, tmp_path: Path, share_relay: StartRelay, shared_redis: RedisServer
) -> None:
    relay = share_relay(jwt_secret=SECRET)
    with backend(framework, tmp_path) as url, httpx.Client(base_url=url, timeout=PATIENCE) as http:
        assert http.post("/relay-token").status_code in (302, 401)  # Django leads to its page for logging in
        answer = http.post("/relay-token", headers={"x-user": "7"})
    assert "no-store" in answer.headers["cache-control"]
    shared_redis.publish_task("user-7/a", n=1)
    shared_redis.publish_task("user-8/a", n=1)
    with relay.client() as client:
        client.send({"type": "authenticate", "token": answer.json()["token"]})
        assert client.receive()["type"] == "authenticated"
        client.subscribe("user-7/a")
        assert client.receive()["data"] == {"n": 1}
        client.send({"type": "subscribe", "task_id": "user-8/a"})
        assert client.receive()["code"] == "forbidden"
    bearer = {"authorization": f"Bearer {answer.json()['token']}"}
    listed = httpx.get(f"http://127.0.0.1:{relay.port}/api/tasks", headers=bearer, timeout=PATIENCE).json()
    assert [task["task_id"] for task in listed["tasks"]] == ["user-7/a"]


def test_the_tokens_of_the_page_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_JWT_SECRET", SECRET)
    first = re.search(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert first is not None
    exec(first[1], {})
