"""The descriptions of the APIs hold: what they say is what the relay does."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from relay.protocols import families, tasks
from relay.server.api_operations import OPERATIONS
from relay.server.asyncapi import CLIENT_MESSAGES, RELAY_MESSAGES, schema_of
from tests.conftest import StartRelay
from tests.harness import RelayServer

CONFIG = Path(__file__).parent / "schemathesis.toml"

#: Requests that are made up for each operation.
EXAMPLES = os.environ.get("RELAY_SCHEMATHESIS_EXAMPLES", "10")


@pytest.fixture
def relay(share_relay: StartRelay) -> RelayServer:
    return share_relay(extra_channels="news*")


@pytest.fixture
def api(relay: RelayServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{relay.port}/api", timeout=20) as client:
        yield client


def test_schemathesis_finds_nothing(relay: RelayServer, tmp_path: Path) -> None:
    """Right, wrong and odd requests to every operation, and sequences of them."""
    url = f"http://127.0.0.1:{relay.port}/api/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", url]
    options = ["--max-examples", EXAMPLES, "--seed", "7", "--no-color", "--suppress-health-check", "all"]
    ended = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"Tested: {len(OPERATIONS)}" in ended.stdout
    assert "Traceback" not in relay.logged()


def test_every_route_is_described(api: httpx.Client) -> None:
    described = {
        (method, re.sub(r"\{.*?\}", "x", path))
        for path, methods in api.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    assert len(described) == len(OPERATIONS)
    for method, path in described:
        allowed = api.request("PUT", path.removeprefix("/api")).headers["allow"].lower().split(", ")
        assert method in allowed
        assert {each for each in allowed if each not in ("head", "options")} == {
            each for each, other in described if other == path
        }


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each.example is not None], ids=lambda each: each.name
)
def test_every_example_works(operation: Any, api: httpx.Client) -> None:
    path = operation.path.replace("{task_id}", "film-1").replace("{name}", "news")
    assert api.post("/tasks/film-1", json={"data": {"status": "pending"}}).status_code == 200
    answer = api.request(operation.method, path, json=operation.example)
    assert answer.status_code in operation.answers
    assert answer.status_code < 205


def test_the_page_loads_nothing(api: httpx.Client) -> None:
    page = api.get("/docs")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "<script" not in page.text
    assert re.findall(r'(?:src|href)="(.*?)"', page.text) == ["/api/openapi.json", "/api/asyncapi.json"]
    for operation in OPERATIONS:
        assert f'id="{operation.name}"' in page.text
    tag = api.get("/openapi.json").headers["etag"]
    assert api.get("/openapi.json", headers={"If-None-Match": tag}).status_code == 304


def test_the_examples_of_messages_are_of_their_kind() -> None:
    for messages in (CLIENT_MESSAGES, RELAY_MESSAGES):
        for message in messages.values():
            assert message.examples
            for example in message.examples:
                jsonschema_rs.validate(schema_of(message), example)
                others = [each for each in messages.values() if each is not message]
                assert not any(jsonschema_rs.Draft202012Validator(schema_of(each)).is_valid(example) for each in others)


def test_every_message_and_field_is_described() -> None:
    source = "".join(Path(str(module.__file__)).read_text() for module in (tasks, families))
    sent = set(re.findall(r'"type": ?"(\w+)"', source))
    described = {message.type for message in RELAY_MESSAGES.values()}
    assert described <= sent <= described | {message.type for message in CLIENT_MESSAGES.values()}
    fields = {name for message in CLIENT_MESSAGES.values() for name in message.fields}
    assert set(tasks._Request.__struct_fields__) == {"type", *fields}


def test_messages_are_as_described(api: httpx.Client, relay: RelayServer) -> None:
    """Each example of a client is understood, and each kind of message of the relay's comes and is as described."""
    document = api.get("/asyncapi.json").json()
    by_type = {message.type: name for name, message in RELAY_MESSAGES.items()}
    seen: set[str] = set()

    def check(message: dict[str, Any]) -> dict[str, Any]:
        name = by_type[message["type"]]
        jsonschema_rs.validate(document["components"]["messages"][name]["payload"], message)
        seen.add(name)
        return message

    assert api.post("/tasks/film-1", json={"data": {"status": "in_progress"}}).status_code == 200
    with relay.client() as client:
        for message in CLIENT_MESSAGES.values():
            for example in message.examples:
                client.send(example)
        client.send({"type": "nonsense"})
        while check(client.receive()).get("channel") != "general":
            pass  # its example of a position is of another epoch: what came before the answer is not delivered
        api.post("/general", json={"data": {"note": "x"}})
        api.post("/tasks/film-1", json={"data": {"status": "completed"}})
        # An open relay's tokens never end, and tests/integration/traces has relays that trace.
        while seen != set(RELAY_MESSAGES) - {"tokenExpires", "trace"}:
            check(client.receive())


def test_events_are_as_described(api: httpx.Client, relay: RelayServer) -> None:
    document = api.get("/asyncapi.json").json()
    assert api.post("/tasks/film-1", json={"data": {"status": "in_progress"}}).status_code == 200
    url = f"http://127.0.0.1:{relay.port}/events?task=film-1"
    with httpx.stream("GET", url, timeout=20) as stream:
        lines = stream.iter_lines()
        data = next(line for line in lines if line.startswith("data:")).removeprefix("data:")
    jsonschema_rs.validate(document["components"]["messages"]["taskUpdate"]["payload"], json.loads(data))
