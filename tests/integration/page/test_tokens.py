"""Tokens in the browser: shown, renewed, never shared between users; signing in to the page, and links to one task."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from relay_client import Publisher
from relay_client.grants import Grants

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.integration.auth.tokens import SECRET, SETTINGS, call, token
from tests.integration.page.conftest import address
from tests.integration.page.test_page import rows
from tests.integration.page.test_sharing import REFUSE, connections, last, received

#: As in `test_sharing`, with tokens that Python makes: window.mint(window.user).
FOLLOW = """async (options) => {
    const { RelayClient } = await import("/relay-client.js");
    window.updates = [];
    window.states = [];
    window.errors = [];
    window.minted = 0;
    window.relay = new RelayClient("/ws/tasks", {
        retryBase: 50, retryCap: 100, onError: ({ code }) => errors.push(code),
        token: async () => { minted += 1; return await mint(window.user); }, ...options,
    });
    relay.connection.subscribe(({ status, transport }) => states.push([status, transport]));
    relay.task("t").onUpdate(({ type, data, isState }) => updates.push([type, data.n, isState]));
}"""


@pytest.fixture
def relay(share_relay: StartRelay) -> RelayServer:
    return share_relay(**SETTINGS)


@pytest.fixture
def publisher(shared_redis: RedisServer) -> Iterator[Publisher]:
    with Publisher(shared_redis.url) as publisher:
        yield publisher


class Mint:
    """Makes the tokens of a test's users."""

    def __init__(self) -> None:
        self.seconds = 600.0
        self.key = SECRET

    def __call__(self, user: str) -> str:
        return Grants(self.key).watch("t", subject=user, ttl=self.seconds)


@pytest.fixture
def mint(context: BrowserContext) -> Mint:
    mint = Mint()
    context.expose_function("mint", mint)
    return mint


def follow(page: Page, relay: RelayServer, user: str, **options: Any) -> None:
    page.goto(address(relay, "/healthz"))
    page.evaluate("(user) => { window.user = user; }", user)
    page.evaluate(FOLLOW, options)


def has_lost_nothing(page: Page) -> bool:
    return not any(kind == "reset" for kind, *_ in page.evaluate("updates"))


@pytest.mark.parametrize("way", ["websocket", "events"])
def test_a_token_is_renewed_and_no_update_is_missed(
    way: str, relay: RelayServer, publisher: Publisher, page: Page, mint: Mint
) -> None:
    mint.seconds = 2
    publisher.publish_task_update("t", {"n": 0})
    page.goto(address(relay, "/healthz"))
    if way == "events":
        page.evaluate(REFUSE)
    page.evaluate("window.user = 'ann'")
    page.evaluate(FOLLOW, {"shared": False})
    eventually(lambda: last(page) == 0)
    assert page.evaluate("states.at(-1)") == ["live", way]
    page.evaluate("states.length = 0")
    number, first = 0, page.evaluate("minted")

    def is_renewed_twice() -> bool:
        nonlocal number
        number += 1
        publisher.publish_task_update("t", {"n": number})
        return bool(page.evaluate("minted") >= first + 2)

    eventually(is_renewed_twice, every=0.1)
    eventually(lambda: received(page, 1, number))
    assert has_lost_nothing(page)
    assert page.evaluate("states") == [], "it was live all the time"


def test_users_never_share_a_connection(
    relay: RelayServer, publisher: Publisher, context: BrowserContext, mint: Mint
) -> None:
    publisher.publish_task_update("t", {"n": 0})
    tabs = [context.new_page() for _ in range(3)]
    for tab, user in zip(tabs, ("ann", "ann", "bob"), strict=True):
        follow(tab, relay, user)
        eventually(lambda tab=tab: last(tab) == 0)  # type: ignore[misc]
    assert connections(relay) == 2
    # The second tab is bob's from now on. It notices when it is asked for a token, at the latest when its host is gone.
    tabs[1].evaluate("window.user = 'bob'")
    tabs.pop(0).close()
    eventually(lambda: connections(relay) == 1)
    publisher.publish_task_update("t", {"n": 1})
    for tab in tabs:
        eventually(lambda tab=tab: received(tab, 1, 1))  # type: ignore[misc]
        assert has_lost_nothing(tab)


def test_tokens_that_are_not_accepted(relay: RelayServer, publisher: Publisher, page: Page, mint: Mint) -> None:
    publisher.publish_task_update("t", {"n": 0})
    mint.seconds = 1
    follow(page, relay, "ann", shared=False)
    eventually(lambda: last(page) == 0)
    page.evaluate("() => { window.mint = () => new Promise(() => {}); }")  # no renewal: the relay ends the connection
    eventually(lambda: page.evaluate("states.at(-1)[0]") in ("reconnecting", "connecting"))
    page.evaluate("relay.close()")
    mint.key = "not the secret of this relay, though it is long enough"
    follow(page, relay, "ann", shared=False)
    eventually(lambda: page.evaluate("errors.at(-1)") == 4403)
    assert page.evaluate("states.at(-1)[0]") == "closed"


def test_the_page_asks_who_one_is_and_a_link_shows_one_task(
    relay: RelayServer, publisher: Publisher, context: BrowserContext, page: Page
) -> None:
    for task in ("t", "u"):
        publisher.publish_task_update(task, {"title": f"Task {task}", "status": "in_progress", "cancellable": True})
    scope = {"tasks": ["t", "u"], "general": True}
    of_ann = token(scope, sub="ann", relay={"watch": scope, "list": scope})
    page.goto(address(relay))
    page.get_by_label("Token").fill(of_ann)
    with page.expect_navigation():
        page.get_by_role("button", name="Continue").click()
    expect(rows(page)).to_have_count(2)
    expect(page.locator("#sign-in")).to_be_hidden()
    page.evaluate("sessionStorage.clear()")
    page.goto("about:blank")
    page.goto(address(relay, f"/?show=running#token={of_ann}"))
    expect(rows(page)).to_have_count(2)
    assert page.url == address(relay, "/?show=running")
    page.goto(address(relay))
    expect(page.locator("#connection")).to_contain_text("Live")
    publisher.publish_task_update("t", {"progress": 30})
    expect(page.locator("#rows")).to_contain_text("30 %")
    page.locator("#rows a", has_text="Task t").click()
    page.locator("#cancel").click()
    page.locator("#confirm-cancel").get_by_role("button", name="Cancel task").click()
    expect(page.locator("#outcome")).to_have_text("You may not cancel this task.")

    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    expect(page.locator("#copied")).to_contain_text("and nothing else")
    link = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(re.escape(address(relay, "/?task=t")) + r"#share=[\w.-]+", link)
    other = context.new_page()
    other.goto(link)
    assert other.url == address(relay, "/?task=t")
    expect(other.locator("#bar")).to_contain_text("30 %")
    expect(other.locator("#messages")).to_contain_text("in progress")
    expect(other.locator("#rows")).to_be_hidden()
    publisher.publish_task_update("t", {"progress": 60})
    expect(other.locator("#bar")).to_contain_text("60 %")
    other.reload()
    expect(other.locator("#bar")).to_contain_text("60 %")
    other.locator("#copy").click()
    expect(other.locator("#copied")).to_contain_text("the one that you have")
    assert other.evaluate("navigator.clipboard.readText()") == link
    # Its maker ends it.
    shared = {"token": link.partition("#share=")[2]}
    assert call(relay, "/api/revoke", {"Authorization": f"Bearer {of_ann}"}, "POST", shared)[0] == 200
    expect(other.get_by_text("This link shows nothing any more")).to_be_visible()
    expect(page.locator("#connection")).to_contain_text("Live")


def test_without_grants_a_link_has_no_token(
    shared_redis: RedisServer, share_relay: StartRelay, context: BrowserContext, page: Page
) -> None:
    relay = share_relay()
    shared_redis.publish_task("t", status="in_progress")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address(relay, "/?task=t"))
    page.locator("#copy").click()
    expect(page.locator("#copied")).to_have_text("The link was copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
