"""The page at `/`: live, honest about its connection, safe with hostile texts, and usable without a mouse."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from relay_client import Publisher
from relay_wire import retries

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.interop.node_packages import CLIENT, install_node_packages
from tests.integration.page.conftest import address

AXE = CLIENT / "node_modules" / "axe-core" / "axe.min.js"

HOSTILE = {
    "html": "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "rtl": "\u202eתואצות \u2067ייבוא\u2069 txt.exe",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 ok",
    "long": "x" * 65_536,
    "quotes": "\"'`&lt;b&gt; {{api-prefix}} ${1}",
}


def rows(page: Page) -> Any:
    return page.locator("#rows > .row:not([hidden])")


def test_tasks_appear_advance_stall_fail_and_finish(
    shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay(task_stall_seconds=1)
    page.goto(address(relay))
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    shared_redis.publish_general(
        type="task_created", task_info={"task_id": "t", "title": "Import", "status": "pending"}
    )
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("waiting")
    with Publisher(shared_redis.url) as publisher:
        publisher.publish_task_update("t", {"status": "in_progress", "progress": 40, "message": "Reading"})
        expect(rows(page)).to_contain_text("40 %")
        expect(rows(page)).to_contain_text("Reading")
        expect(rows(page)).to_contain_text("stalled at 40 %")
        expect(page.locator(".chip", has_text="Stalled")).to_contain_text("1")
        publisher.publish_task_update("t", {"progress": 60})
        expect(rows(page)).to_have_text(re.compile("60 %"))
        publisher.publish_task_update("t", {"status": "failed", "error": "no such table"})
        expect(rows(page)).to_contain_text("no such table")
        expect(page).to_have_title("1 failed · Relay")
    page.locator(".chip", has_text="Completed").click()
    expect(page.get_by_text("No task fits.")).to_be_visible()
    assert page.url.endswith("/?show=completed")
    page.go_back()
    expect(rows(page)).to_have_count(1)


def test_a_task_is_shown_in_full(shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        publisher.publish_task_update(
            "t", {"title": "Import", "status": "in_progress", "stage": "fetch", "progress": 1}
        )
        publisher.publish_task_update("t", {"stage": "load", "message": "Rows 1 to 10", "progress": 50})
        page.goto(address(relay, "/?task=t"))
        expect(page.locator("#stages li")).to_have_text([re.compile("fetch"), re.compile("load")])
        expect(page.locator("#messages")).to_contain_text("Rows 1 to 10")
        publisher.publish_task_update("t", {"stage": "check", "message": "Comparing"})
        expect(page.locator("#stages li[aria-current]")).to_contain_text("check")
        ending = {
            "status": "failed",
            "error": "ValueError: 7",
            "traceback": "line 1\n  line 2",
            "log_url": "https://x.example/l",
        }
        publisher.publish_task_update("t", ending | {"evil_url": "javascript:alert(1)"})
        expect(page.locator("#error")).to_have_text("ValueError: 7\n\nline 1\n  line 2")
        expect(page.locator("#results a")).to_have_attribute("href", "https://x.example/l")
        page.locator("summary").click()
        expect(page.locator("#json")).to_contain_text('"evil_url": "javascript:alert(1)"')
    page.locator("#close").click()
    assert page.url == address(relay)


def test_a_parent_shows_its_children(shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        publisher.publish_task_update("p", {"title": "Parent", "status": "in_progress"})
        for number, status in enumerate(("completed", "failed")):
            fields = {"title": f"Child {number}", "status": status}
            publisher.publish_task_update(f"c{number}", fields, parent_id="p")
        page.goto(address(relay, "/?task=p"))
        expect(page.locator("#children li")).to_have_count(2)
        expect(page.locator("#facts")).to_contain_text("2 of 2 done, 1 failed")
        page.locator("#children a", has_text="Child 1").click()
        expect(page.locator("#facts code")).to_have_text("c1")
        page.locator("#facts a", has_text="Parent").click()
        expect(page.locator("#facts code")).to_have_text("p")


def test_hostile_texts_are_shown_as_text(shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        for name, text in HOSTILE.items():
            task_id = f"{name} {text}"[:255]
            publisher.publish_task_update(
                task_id, {"title": text, "message": text, "status": "in_progress", "kind": text}
            )
        nothing_odd = {"__proto__": 1, "constructor": "c", "status": "toString", "progress": "50", "stage": {"a": 1}}
        publisher.publish_task_update("odd", nothing_odd)
    page.goto(address(relay))
    expect(rows(page)).to_have_count(len(HOSTILE) + 1)
    for name in ("html", "quotes"):
        expect(page.locator(".row-title", has_text=HOSTILE[name]).first).to_be_visible()
    for name, text in HOSTILE.items():
        page.locator("#rows > .row", has_text=text[:20]).first.locator("a").click()
        expect(page.locator("#facts code")).to_have_text(f"{name} {text}"[:255])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing widens the page"
        page.locator("#close").click()
    assert page.title() == "Relay"
    assert page.locator("img").count() == 1, "but for the icon"


def test_the_connection_is_told_honestly(redis_server: RedisServer, start_relay: StartRelay, page: Page) -> None:
    relay = start_relay()
    pill = page.locator("#connection")
    with Publisher(redis_server.url) as publisher:
        publisher.publish_task_update("t", {"title": "Import", "status": "in_progress", "progress": 10})
        page.goto(address(relay))
        expect(pill).to_contain_text("Live")
        expect(rows(page)).to_contain_text("10 %")
        relay.kill()
        expect(pill).to_contain_text("reconnecting in")
        expect(page.locator("#banner")).to_contain_text("the last that was known")
        publisher.publish_task_update("t", {"progress": 70})
        relay.start()
        expect(pill).to_contain_text("Live")
        expect(rows(page)).to_contain_text("70 %")
        expect(page.locator("#banner")).to_be_hidden()


def test_a_page_without_tasks_says_so_without_a_connection_too(
    shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay()
    page.goto(address(relay))
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    page.evaluate("document.dispatchEvent(new Event('freeze'))")
    expect(page.locator("#banner")).to_have_text("Tasks appear here when the connection is back.")
    page.route("**/api/tasks?*", lambda route: route.fulfill(status=503, json={"message": "Redis is away"}))
    page.evaluate("document.dispatchEvent(new Event('resume'))")
    expect(page.locator("#banner")).to_have_text(
        "The list cannot be read: Redis is away (HTTP 503). It is read again soon."
    )
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    page.reload()
    expect(page.get_by_text("The tasks could not be read yet")).to_be_visible()
    page.unroute("**/api/tasks?*")
    shared_redis.publish_task("t", status="in_progress")
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#banner")).to_be_hidden()


def test_rows_do_not_jump_under_the_pointer(shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        for number in range(3):
            publisher.publish_task_update(f"t{number}", {"status": "in_progress", "progress": 1})
        page.goto(address(relay))
        expect(rows(page)).to_have_count(3)
        first = page.locator('[aria-posinset="1"] .row-title').text_content()
        page.locator('[aria-posinset="1"]').hover()
        shared_redis.publish_general(type="task_created", task_info={"task_id": "new", "status": "pending"})
        expect(page.locator("#more")).to_have_text("1 new task")
        assert page.locator('[aria-posinset="1"] .row-title').text_content() == first
        page.locator("#more").click()
        expect(page.locator('[aria-posinset="1"] .row-title')).to_have_text("new")


def test_the_keyboard_is_enough(shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        for number in range(300):
            publisher.post_task_update(f"t{number:03}", {"status": "in_progress", "progress": 1})
    page.goto(address(relay))
    expect(page.locator('[aria-setsize="300"]').first).to_be_visible()

    def focused() -> Any:
        return page.evaluate("document.activeElement.closest('.row')?.ariaPosInSet ?? document.activeElement.id")

    page.keyboard.press("/")
    assert focused() == "search"
    page.keyboard.type("t00")
    expect(rows(page)).to_have_count(10)
    page.locator("#search").fill("")
    expect(page.locator('[aria-setsize="300"]').first).to_be_visible()
    page.keyboard.press("Tab")
    while not focused().isdigit():
        page.keyboard.press("Tab")
    assert focused() == "1"
    page.keyboard.press("ArrowDown")
    assert focused() == "2"
    page.keyboard.press("End")
    eventually(lambda: focused() == "300")
    page.keyboard.press("Home")
    eventually(lambda: focused() == "1")
    title = page.evaluate("document.activeElement.querySelector('.row-title').textContent")
    page.keyboard.press("Enter")
    expect(page.locator("#facts code")).to_have_text(title)
    assert focused() == "panel-title"
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    eventually(lambda: focused() == "1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: Any, shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    install_node_packages(CLIENT)
    relay = share_relay()
    page.emulate_media(color_scheme=scheme)
    found: list[Any] = []

    def check(what: str) -> None:
        page.evaluate(AXE.read_text())
        result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        found.extend(
            (what, rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in result["violations"]
        )

    page.goto(address(relay))
    expect(page.get_by_text("No tasks yet")).to_be_visible()
    check("empty")
    with Publisher(shared_redis.url) as publisher:
        for status in ("pending", "in_progress", "completed", "failed", "cancelled"):
            fields = {"title": f"Is {status}", "message": "m", "progress": 50, "stage": "s", "error": "e", "kind": "k"}
            publisher.publish_task_update(status, fields | {"status": status, "result_url": "https://x.example/"})
        publisher.publish_task_update("slow", {"status": "in_progress", "stalled": True})
    page.reload()
    expect(rows(page)).to_have_count(6)
    check("list")
    page.locator("#rows > .row", has_text="Is failed").locator("a").click()
    expect(page.locator("#stages li")).to_have_count(1)
    check("task")
    page.set_viewport_size({"width": 390, "height": 844})
    check("phone")
    with Publisher(shared_redis.url) as publisher:
        publisher.publish_task_update("failed", {"retryable": True})
    page.locator("#retry").click()
    check("the dialog before another run, on a phone")
    page.set_viewport_size({"width": 1280, "height": 720})
    check("the same")
    page.locator("#confirm-retry [value=no]").click()
    page.evaluate("document.dispatchEvent(new Event('freeze'))")
    expect(page.locator("#banner")).to_be_visible()
    check("disconnected")
    page.goto(address(relay, "/?task=failed#share=of-a-link"))
    expect(page.locator("body.is-one-task #error")).to_be_visible()
    check("the view of one task")
    page.set_viewport_size({"width": 390, "height": 844})
    check("the same on a phone")
    assert found == []


def test_cancel_is_confirmed_and_reported_as_it_happened(
    shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay()
    answers = iter([(503, {"message": "Redis is away"}), (202, {}), (403, {})])
    asked = []

    def answer(route: Any) -> None:
        asked.append(route.request.method)
        status, body = next(answers)
        route.fulfill(status=status, content_type="application/json", body=json.dumps(body))

    page.route("**/api/tasks/*/cancel", answer)

    def cancel() -> None:
        page.locator("#cancel").click()
        page.locator("#confirm-cancel [value=yes]").click()

    with Publisher(shared_redis.url) as publisher:
        for task in ("t", "u"):
            publisher.publish_task_update(task, {"status": "in_progress", "progress": 10})
        page.goto(address(relay, "/?task=t"))
        expect(page.locator("#bar")).to_contain_text("10 %")
        expect(page.locator("#cancel")).to_be_hidden()
        for task in ("t", "u"):
            publisher.publish_task_update(task, {"cancellable": True})
        page.locator("#cancel").click()
        page.locator("#confirm-cancel [value=no]").click()
        assert asked == []
        cancel()
        expect(page.locator("#outcome")).to_contain_text("not cancelled: Redis is away")
        cancel()
        expect(page.locator("#outcome")).to_contain_text("Cancellation was requested")
        publisher.publish_task_update("t", {"status": "completed"})
        expect(page.locator("#outcome")).to_contain_text("completed before it could be cancelled")
        expect(page.locator("#cancel")).to_be_hidden()
        page.goto(address(relay, "/?task=u"))
        cancel()
        expect(page.locator("#outcome")).to_contain_text("You may not cancel")
        expect(page.locator("#cancel")).to_be_hidden()
    assert asked == ["POST"] * 3


def test_retry_is_confirmed_and_reported_as_it_happened(
    shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay()

    def retry() -> None:
        page.locator("#retry").click()
        page.locator("#confirm-retry [value=yes]").click()

    info = {"title": "Import", "status": "pending", "progress": 0}
    failed = {"title": "Import", "status": "failed", "error": "disk full"}
    with Publisher(shared_redis.url) as publisher, shared_redis.client() as client:
        publisher.publish_task_update("t", failed)
        page.goto(address(relay, "/?task=t"))
        expect(page.locator("#bar")).to_contain_text("disk full")
        expect(page.locator("#retry")).to_be_hidden()
        for attempt in (1, 2):
            publisher.publish_task_update("t", {"retryable": True, "attempt": attempt})
        expect(page.locator("#facts")).to_contain_text("Attempt2")
        page.locator("#retry").click()
        page.locator("#confirm-retry [value=no]").click()
        expect(page.locator("#outcome")).to_be_empty()
        client.hset(retries.kept_key("t"), mapping={"kind": "k", "job": json.dumps({"info": info})})
        retry()
        expect(page.locator("#outcome")).to_contain_text("in the queue again")
        expect(page.locator("#bar")).to_contain_text("waiting")
        expect(page.locator("#error-section")).to_be_hidden()
        expect(page.locator("#retry")).to_be_hidden()
        publisher.publish_task_update("t", {"status": "in_progress"})
        expect(page.locator("#outcome")).to_have_text("The task runs again.")
        assert client.xlen(retries.queue_key("k")) == 1
        # Its worker has said so, and nothing is there any more.
        publisher.publish_task_update("u", failed | {"retryable": True})
        page.goto(address(relay, "/?task=u"))
        retry()
        expect(page.locator("#outcome")).to_contain_text("does not run again: nobody can")
        expect(page.locator("#retry")).to_be_hidden()
