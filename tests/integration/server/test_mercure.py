"""Mercure, as its clients speak it: an event stream, a form, tokens and cookies, on two relays."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt
import pytest

from tests.harness import RedisServer, RelayServer

SECRET = "a secret of thirty-two characters"
PATH = "/.well-known/mercure"


def token(**mercure: list[str]) -> str:
    return jwt.encode({"mercure": mercure, "exp": time.time() + 7200}, SECRET, "HS256")


PUBLISHER = {"authorization": f"Bearer {token(publish=['*'])}"}


def url(relay: RelayServer) -> str:
    return f"http://127.0.0.1:{relay.port}{PATH}"


def publish(relay: RelayServer, headers: dict[str, str] = PUBLISHER, **form: Any) -> httpx.Response:
    return httpx.post(url(relay), data=form, headers=headers)


class Stream:
    """The events of a response."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self._lines = response.iter_lines()
        self.last_id = ""

    def next(self) -> tuple[str, str]:
        """Return the next event: its name and its data."""
        name, data = "message", []
        for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
            elif field == "id":
                self.last_id = value
            elif not line and data:
                return name, "\n".join(data)
        raise EOFError


@contextmanager
def subscribed(relay: RelayServer, *topics: str, headers: Any = None, **query: str) -> Iterator[Stream]:
    with httpx.stream("GET", url(relay), params={"topic": topics, **query}, headers=headers, timeout=20) as response:
        assert response.status_code == 200, response.read()
        yield Stream(response)


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RelayServer, RelayServer]]:
    directories = [tmp_path_factory.mktemp("mercure") for _ in range(3)]
    settings: dict[str, Any] = {
        "jwt_secret": SECRET,
        "anonymous": "watch:general",
        "allowed_origins": "https://page.example",
    }
    with (
        RedisServer(directories[0], "--save", "") as redis,
        RelayServer(directories[1], redis.url, **settings) as first,
        RelayServer(directories[2], redis.url, hijack_sockets=False, **settings) as second,
    ):
        yield first, second


def test_updates_reach_those_who_selected_them_on_every_relay(relays: tuple[RelayServer, RelayServer]) -> None:
    first, second = relays
    reader = {"authorization": f"Bearer {token(subscribe=['https://x/{id}'])}"}
    with subscribed(first, "https://x/7") as public, subscribed(second, "https://x/{id}", headers=reader) as private:
        publish(second, topic="https://x/7", data="secret", private="on")
        publish(second, topic="https://y/7", data="other")
        answer = publish(second, topic=["https://z", "https://x/7"], data="two\nlines", id="urn:1", type="book")
        assert (answer.status_code, answer.text) == (200, "urn:1")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert public.next() == ("book", "two\nlines")
        assert public.last_id == "urn:1"
        assert [private.next(), private.next()] == [("message", "secret"), ("book", "two\nlines")]


def test_a_client_resumes_on_another_relay_by_any_id(relays: tuple[RelayServer, RelayServer]) -> None:
    first, second = relays
    ids = [publish(first, topic="resumed", data=str(n), id="urn:two" if n == 2 else "").text for n in range(1, 5)]
    assert ids[1] == "urn:two"
    for given in ids[:3]:
        with subscribed(second, "resumed", headers={"last-event-id": given}) as stream:
            assert stream.headers["last-event-id"] == given
            following = [stream.next()[1] for _ in range(3 - ids.index(given))]
        assert following == [str(n) for n in range(ids.index(given) + 2, 5)]
    with subscribed(second, "resumed", lastEventID="earliest") as stream:
        assert [stream.next()[1] for _ in range(4)] == ["1", "2", "3", "4"]
    odd = publish(first, topic="odd", id="urn:é").text
    publish(first, topic="odd", data="after")
    with subscribed(second, "odd", headers={b"last-event-id": odd.encode()}) as stream:
        assert stream.next()[1] == "after"
    for malformed in ("a\nb", " a", "\0"):
        with subscribed(second, "resumed", lastEventID=malformed) as stream:
            assert stream.next()[0] == "reset"
    with subscribed(second, "resumed", lastEventID="unknown") as stream:
        assert stream.next()[0] == "reset"
        assert stream.headers["last-event-id"].startswith("#")


def test_tasks_are_topics(relays: tuple[RelayServer, RelayServer]) -> None:
    first, second = relays
    reader = {"authorization": f"Bearer {token(subscribe=['task:{id}'])}"}
    assert publish(first, topic="task:t", data='{"progress":1}').status_code == 200
    with subscribed(second, "task:t", headers=reader) as stream:
        assert stream.next() == ("message", '{"type":"task_update","task_id":"t","data":{"progress":1}}')
        publish(first, topic="task:t", data='{"progress":2}')
        assert stream.next() == ("message", '{"type":"task_update","task_id":"t","data":{"progress":2}}')
        last_id = stream.last_id
    publish(first, topic="task:t", data='{"progress":3}')
    with subscribed(first, "task:t", headers={**reader, "last-event-id": last_id}) as stream:
        assert stream.next() == ("message", '{"type":"task_update","task_id":"t","data":{"progress":3}}')
    assert publish(first, topic=["task:t", "a"], data="{}").status_code == 400
    assert publish(first, topic="task:t", data="no object").status_code == 400
    assert httpx.get(url(first), params={"topic": "task:t"}).status_code == 403


def test_credentials(relays: tuple[RelayServer, RelayServer]) -> None:
    relay = relays[0]
    own = {"authorization": f"Bearer {token(publish=['a', 'b/{x}'])}"}
    assert publish(relay, own, topic=["a", "b/1"]).status_code == 200
    assert publish(relay, own, topic=["a", "c"]).status_code == 403
    assert publish(relay, {}, topic="a").status_code == 403
    assert publish(relay, {"authorization": "Bearer a.b.c"}, topic="a").status_code == 401
    in_url = {"topic": "a", "authorization": token(publish=["*"])}
    assert httpx.get(url(relay), params=in_url).status_code == 400
    assert httpx.post(url(relay), params=in_url, data={"topic": "a"}).status_code == 400
    cookie = {"cookie": f"other=1; mercureAuthorization={token(publish=['a'])}"}
    assert publish(relay, cookie, topic="a").status_code == 200
    assert publish(relay, {**cookie, "origin": "https://page.example"}, topic="a").status_code == 200
    assert publish(relay, {**cookie, "origin": "https://other.example"}, topic="a").status_code == 403
    assert publish(relay, {**cookie, "sec-fetch-site": "cross-site"}, topic="a").status_code == 403
