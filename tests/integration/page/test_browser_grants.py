"""Grants in a browser: what a page of another origin cannot do with the visitor's cookie, and an hour of short tokens."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from relay_client import Publisher

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.integration.auth.tokens import SECRET, SETTINGS, token
from tests.integration.page.apps import fast_clock
from tests.integration.page.conftest import address
from tests.integration.page.test_elements import served

#: Try each way in with the visitor's cookie, and return what came of it.
TRY = """async (url) => {
  const socket = new Promise((resolve) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/ws/tasks`);
    socket.onmessage = ({ data }) => resolve(JSON.parse(data).type);
    socket.onopen = () => socket.send(JSON.stringify({ type: "subscribe", task_id: "secret" }));
    socket.onerror = () => resolve("refused");
    socket.onclose = () => resolve("closed");
  });
  const events = new Promise((resolve) => {
    const events = new EventSource(`${url}/events?task=secret`, { withCredentials: true });
    events.addEventListener("task_update", ({ data }) => resolve(data));
    events.onerror = () => events.readyState === EventSource.CLOSED && resolve("refused");
  });
  const request = (path, options) => fetch(`${url}${path}`, { credentials: "include", ...options }).then(
    async (answer) => (answer.type === "opaque" ? "opaque" : [answer.status, await answer.text()]), () => "refused");
  return {
    socket: await socket,
    events: await events,
    api: await request("/api/tasks/secret", {}),
    noCors: await request("/api/tasks/secret", { mode: "no-cors" }),
    ticket: await request("/api/ticket", { method: "POST" }),
    share: await request("/api/tasks/secret/share", { method: "POST" }),
  };
}"""

MAY = {"watch": {"tasks": ["secret"]}, "cancel": {"tasks": ["secret"]}}


def cancel_url(url: str) -> str:
    return f"{url}/api/tasks/secret/cancel"


@pytest.fixture
def visitor(browser: Browser) -> Iterator[BrowserContext]:
    """A profile whose console may complain: that is what refused pages see."""
    with closing(browser.new_context()) as context:
        yield context


def task_of(page: Page) -> Any:
    return page.evaluate("fetch('/api/tasks/secret').then((answer) => answer.ok ? answer.json() : null)")


@pytest.mark.parametrize("origins", ["*", "https://app.example"])
def test_a_page_of_another_origin_can_do_nothing_with_the_visitors_cookie(
    origins: str, shared_redis: RedisServer, share_relay: StartRelay, visitor: BrowserContext
) -> None:
    relay = share_relay(**SETTINGS, allowed_origins=origins, allowed_hosts="127.0.0.1")
    shared_redis.publish_task("secret", status="in_progress", n=1)
    # A page on another port is of the same site, so that SameSite keeps nothing from it; and this cookie goes to all sites.
    url = address(relay, "")
    visitor.add_cookies(
        [
            {
                "name": "__Host-relay",
                "value": token(relay=MAY),
                "url": url.replace("http", "https"),
                "httpOnly": True,
                "secure": True,
                "sameSite": "None",
            }
        ]
    )
    own, foreign = visitor.new_page(), visitor.new_page()
    own.goto(address(relay, "/healthz"))
    eventually(lambda: task_of(own) is not None)
    allowed = own.evaluate(TRY, url)
    assert allowed["socket"] == "subscribed"
    assert '"n":1' in allowed["events"]
    assert (allowed["api"][0], allowed["ticket"][0], allowed["share"][0]) == (200, 201, 201)
    with served({"/": b"<!doctype html><title>A page that the visitor should not have opened</title>"}) as page_a:
        foreign.goto(page_a)
        reason = f'relay_connections_refused_total{{reason="{"cookie_origin" if origins == "*" else "origin"}"}}'
        before = relay.metric(reason)
        tried = foreign.evaluate(TRY, url)
        foreign.evaluate(
            "(url) => fetch(url, { method: 'POST', mode: 'no-cors', credentials: 'include' })", cancel_url(url)
        )
        assert set(tried.values()) <= {"refused", "opaque"}, "nothing can be read"
        assert relay.metric(reason) - before >= 2, "the browser has sent the cookie, and the relay has not taken it"
    assert "cancel_requested" not in task_of(own), "a request whose answer nobody reads has no effect either"
    own.evaluate("(url) => fetch(url, { method: 'POST' })", cancel_url(url))
    assert "cancel_requested" in task_of(own)


class FastRelay(RelayServer):
    """A relay whose wall clock is fast."""

    def _command(self) -> list[str]:
        return ["hypercorn", "-k", "trio", "-b", f"127.0.0.1:{self.port}", f"{fast_clock.__file__}:app"]


@pytest.fixture
def fast_relay(redis_server: RedisServer, tmp_path: Path) -> Iterator[RelayServer]:
    directory = tmp_path / "relay"
    directory.mkdir()
    with FastRelay(directory, redis_server.url, **SETTINGS, token_notice=450, handshake_timeout=1800) as relay:
        yield relay


def new_token() -> str:
    """A token that holds for a quarter of an hour, by the fast clock."""
    now = fast_clock.fast_time()
    return jwt.encode({"exp": now + 900, "relay": {"watch": {"tasks": ["t"]}}}, SECRET, "HS256")


FOLLOW = """async () => {
  const { RelayClient } = await import("/relay-client.js");
  window.numbers = [];
  window.relay = new RelayClient("/ws/tasks", { token: () => newToken(), retryBase: 50, retryCap: 100 });
  relay.task("t").onUpdate(({ data, isState }) => isState ? (window.begun = true) : numbers.push(data.n));
}"""


def test_a_token_is_renewed_for_an_hour_without_a_lost_update(
    redis_server: RedisServer, fast_relay: RelayServer, page: Page
) -> None:
    tokens: list[float] = []

    def issue() -> str:
        tokens.append(fast_clock.fast_time())
        return new_token()

    sockets: list[Any] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    page.expose_function("newToken", issue)
    page.goto(address(fast_relay, "/healthz"))
    with Publisher(redis_server.url) as publisher:
        publisher.publish_task_update("t", {"n": 0})
        page.evaluate(FOLLOW)
        page.wait_for_function("window.begun")
        begun, published = fast_clock.fast_time(), 0
        while fast_clock.fast_time() - begun < 3600:
            published += 1
            publisher.publish_task_update("t", {"n": published})
            page.wait_for_timeout(20)  # the page goes on meanwhile
        page.wait_for_function("(last) => numbers.at(-1) === last", arg=published)
    numbers = page.evaluate("numbers")
    assert numbers == list(range(1, published + 1)), "each once, in order"
    assert len(tokens) >= 3600 / 900
    assert len(sockets) < len(tokens), "it was renewed on the same connection"
