"""The client in a browser: one connection for all tabs, what happens when it is lost, and the way without WebSockets."""

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from playwright.sync_api import BrowserContext, Page
from relay_client import Publisher

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.integration.page.conftest import address

#: Follow task "t" in a tab, and note what arrives.
FOLLOW = """async (options) => {
    const { RelayClient } = await import("/relay-client.js");
    window.updates = [];
    window.states = [];
    window.relay = new RelayClient("/ws/tasks", { retryBase: 50, retryCap: 100, ...options });
    relay.connection.subscribe(({ status, transport }) => states.push([status, transport]));
    relay.task("t").onUpdate(({ type, data, isState }) => updates.push([type, data.n, isState]));
}"""


def follow(page: Page, relay: RelayServer, **options: Any) -> None:
    page.goto(address(relay, "/healthz"))  # any document of the relay's origin
    page.evaluate(FOLLOW, options)


def last(page: Page) -> Any:
    return page.evaluate("window.updates.at(-1)?.[1] ?? null")


def received(page: Page, first: int, until: int) -> bool:
    """Whether all updates from one to another have come, each once and in order."""
    numbers = [number for _, number, is_state in page.evaluate("updates") if not is_state]
    return numbers[-(until - first + 1) :] == list(range(first, until + 1)) and len(numbers) == len(set(numbers))


def until_received(tabs: Iterable[Page], until: int) -> None:
    for tab in tabs:
        eventually(partial(received, tab, 1, until))


def connections(relay: RelayServer) -> float:
    return relay.metric('relay_connections{transport="hijacked"}')


def test_ten_tabs_hold_one_connection_and_go_on_when_its_owner_closes(
    shared_redis: RedisServer, share_relay: StartRelay, context: BrowserContext
) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        publisher.publish_task_update("t", {"n": 0})
        tabs = [context.new_page() for _ in range(10)]
        for tab in tabs:
            follow(tab, relay)
        eventually(lambda: all(last(tab) == 0 for tab in tabs))
        assert connections(relay) == 1
        number = 0
        for _ in range(2):
            number += 1
            publisher.publish_task_update("t", {"n": number})
            tabs.pop(0).close()  # the first one was elected
            for _ in range(5):
                number += 1
                publisher.publish_task_update("t", {"n": number})
            until_received(tabs, number)
            assert connections(relay) == 1
        assert not any(kind == "reset" for tab in tabs for kind, *_ in tab.evaluate("updates"))
    for tab in tabs:
        tab.close()
    eventually(lambda: connections(relay) == 0)


def test_a_tab_that_was_elected_and_hangs_is_replaced(
    shared_redis: RedisServer, share_relay: StartRelay, context: BrowserContext
) -> None:
    relay = share_relay()
    shared_redis.publish_task("t", n=0)
    hung = context.new_page()
    hung.goto(address(relay, "/healthz"))
    name = f"trio-relay:ws://127.0.0.1:{relay.port}/ws/tasks"
    hung.evaluate("(name) => void navigator.locks.request(name, () => new Promise(() => {})).catch(() => {})", name)
    page = context.new_page()
    follow(page, relay)
    eventually(lambda: last(page) == 0)
    assert connections(relay) == 1


def test_tabs_share_a_worker_where_one_is_named(
    shared_redis: RedisServer, share_relay: StartRelay, context: BrowserContext
) -> None:
    relay = share_relay()
    shared_redis.publish_task("t", n=0)
    tabs = [context.new_page() for _ in range(3)]
    for tab in tabs:
        follow(tab, relay, worker="/relay-worker.js")
    eventually(lambda: all(last(tab) == 0 for tab in tabs))
    assert connections(relay) == 1
    tabs.pop(0).close()
    shared_redis.publish_task("t", n=1)
    until_received(tabs, 1)
    # A worker that cannot be loaded: the tabs elect one of them.
    other = context.new_page()
    follow(other, relay, worker="/none.js")
    eventually(lambda: last(other) == 1)


def test_a_relay_that_was_killed_is_found_again_and_nothing_is_missed(
    redis_server: RedisServer, start_relay: StartRelay, page: Page
) -> None:
    relay = start_relay()
    with Publisher(redis_server.url) as publisher:
        publisher.publish_task_update("t", {"n": 0})
        follow(page, relay)
        eventually(lambda: last(page) == 0)
        relay.kill()
        eventually(lambda: page.evaluate("states.at(-1)[0]") == "reconnecting")
        for number in range(1, 6):
            publisher.publish_task_update("t", {"n": number})
        relay.start()
        eventually(lambda: received(page, 1, 5))
        publisher.publish_task_update("t", {"n": 6})
        eventually(lambda: received(page, 1, 6))
    assert not any(kind == "reset" for kind, *_ in page.evaluate("updates"))


def test_a_page_that_was_frozen_resumes(shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        publisher.publish_task_update("t", {"n": 0})
        follow(page, relay)
        eventually(lambda: last(page) == 0)
        page.evaluate("document.dispatchEvent(new Event('freeze'))")
        eventually(lambda: connections(relay) == 0)
        for number in range(1, 6):
            publisher.publish_task_update("t", {"n": number})
        page.evaluate("document.dispatchEvent(new Event('resume'))")
        eventually(lambda: received(page, 1, 5))
        # The same for a page that is kept for the back button.
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
        eventually(lambda: connections(relay) == 0)
        publisher.publish_task_update("t", {"n": 6})
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        eventually(lambda: received(page, 1, 6))


#: WebSockets that a proxy refuses, until `window.WebSocket` is what it was.
REFUSE = """() => {
    window.RealWebSocket = window.WebSocket;
    window.WebSocket = function (url) {
        if (window.isAllowed) return new RealWebSocket(url);
        setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 1);
        this.close = () => {};
    };
}"""


def test_events_are_used_where_websockets_are_refused_and_left_when_they_are_not(
    shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        publisher.publish_task_update("t", {"n": 0})
        page.goto(address(relay, "/healthz"))
        page.evaluate(REFUSE)
        page.evaluate(FOLLOW, {"upgradeAfter": 100, "shared": False})
        eventually(lambda: last(page) == 0)
        assert page.evaluate("states.at(-1)") == ["live", "events"]
        page.evaluate("""() => { window.other = []; relay.task("u").onUpdate(({ data }) => other.push(data.n)); }""")
        publisher.publish_task_update("u", {"n": 1})
        eventually(lambda: page.evaluate("other.at(-1)") == 1)
        for number in range(1, 6):
            publisher.publish_task_update("t", {"n": number})
        eventually(lambda: received(page, 1, 5))
        page.evaluate("window.isAllowed = true")
        eventually(lambda: page.evaluate("states.at(-1)") == ["live", "websocket"])
        publisher.publish_task_update("t", {"n": 6})
        eventually(lambda: received(page, 1, 6))
    assert not any(kind == "reset" for kind, *_ in page.evaluate("updates"))


#: Follow the family of task "p" in a tab, and note what arrives of its children.
FOLLOW_FAMILY = """async (options) => {
    const { RelayClient } = await import("/relay-client.js");
    window.steps = {};
    window.types = new Set();
    window.relay = new RelayClient("/ws/tasks", { retryBase: 50, retryCap: 100, ...options });
    window.family = relay.family("p");
    family.subscribe(() => {});
    family.onUpdate(({ type, taskId, state, isState }) => {
        types.add(type);
        if (taskId === "p" || type === "reset") return;
        (steps[taskId] ??= []).push(isState ? "state" : state.text);
    });
}"""

TEXTS = """() => Object.fromEntries([...family.state.children].map(([id, { text }]) => [id, text]))"""


def test_a_task_and_its_children_on_every_way_to_the_relay(
    shared_redis: RedisServer, share_relay: StartRelay, context: BrowserContext
) -> None:
    """On the tabs' own connection, in a shared worker and by `/events`; each update once, also after the page was frozen."""
    relay = share_relay()

    def publish(task: str, text: Any) -> None:
        message = {"task_id": task, "data": {"text": text}, "parent_id": "p"}
        shared_redis.publish("task_updates", json.dumps(message))

    publish("a", "1")
    eventually(lambda: '"text":"1"' in str(relay.get("/api/tasks/a")[1]))
    ways: list[dict[str, Any]] = [{}, {}, {"worker": "/relay-worker.js"}, {"shared": False}]
    tabs = [context.new_page() for _ in ways]
    for tab, way in zip(tabs, ways, strict=True):
        tab.goto(address(relay, "/healthz"))
        if "shared" in way:
            tab.evaluate(REFUSE)
        tab.evaluate(FOLLOW_FAMILY, way)

    def until(**texts: str) -> None:
        for tab in tabs:
            eventually(lambda tab=tab: tab.evaluate(TEXTS) == texts)  # type: ignore[misc]

    until(a="1")
    assert connections(relay) == 3
    assert tabs[3].evaluate("relay.connection.state.transport") == "events"
    publish("a", {"$append": "2"})
    publish("b", {"$append": "1"})
    until(a="12", b="1")
    tabs[0].evaluate("document.dispatchEvent(new Event('freeze'))")  # the one that was elected
    publish("a", {"$append": "3"})
    publish("b", {"$append": "2"})
    tabs[0].evaluate("document.dispatchEvent(new Event('resume'))")
    # Another stream takes the place of that of `/events`, and resumes.
    tabs[3].evaluate("relay.task('other').subscribe(() => {})")
    publish("a", {"$append": "4"})
    until(a="1234", b="12")
    for tab in tabs:
        assert tab.evaluate("steps") == {"a": ["state", "12", "123", "1234"], "b": ["1", "12"]}
        assert tab.evaluate("[...types]") == ["task_update"]
