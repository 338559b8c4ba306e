"""Mercure in a browser: a plain EventSource with its cookie, which a restarted relay does not interrupt."""

import httpx
from playwright.sync_api import BrowserContext, Page

from tests.conftest import StartRelay
from tests.integration.auth.tokens import SETTINGS, token
from tests.integration.page.conftest import address

PATH = "/.well-known/mercure"

FOLLOW = """(url) => {
  window.received = [];
  window.source = new EventSource(url);
  source.onmessage = ({ data, lastEventId }) => received.push([data, lastEventId]);
  return new Promise((resolve) => { source.onopen = resolve; }).then(() => true);
}"""


def test_an_event_source_with_a_cookie_resumes_after_a_restart(
    start_relay: StartRelay, context: BrowserContext, page: Page
) -> None:
    first = start_relay(**SETTINGS, anonymous="watch:general")
    second = start_relay(**SETTINGS)
    publisher = {"authorization": f"Bearer {token(mercure={'publish': ['*']})}"}

    def publish(data: str, event_id: str, **more: str) -> None:
        form = {"topic": "https://x/books/7", "data": data, "id": event_id, **more}
        assert httpx.post(address(second, PATH), data=form, headers=publisher).text == event_id

    page.goto(address(first, "/healthz"))
    selector = "https%3A%2F%2Fx%2Fbooks%2F%7Bid%7D"
    assert page.evaluate(FOLLOW, f"{PATH}?topic={selector}")
    publish("secret", "urn:0", private="on")
    publish("public", "urn:1")
    page.wait_for_function("received.length === 1")
    assert page.evaluate("received") == [["public", "urn:1"]]
    page.evaluate("source.close()")

    reader = token(mercure={"subscribe": ["https://x/books/{id}"]})
    context.add_cookies(
        [
            {
                "name": "mercureAuthorization",
                "value": reader,
                "url": address(first, PATH),
                "httpOnly": True,
                "sameSite": "Strict",
            }
        ]
    )
    assert page.evaluate(FOLLOW, f"{PATH}?topic={selector}&lastEventID=urn%3A0")
    publish("a secret", "urn:2", private="on")
    page.wait_for_function("received.length === 2")
    first.kill()
    publish("missed", "urn:3", private="on")
    first.start()
    publish("at last", "urn:4", private="on")
    page.wait_for_function("received.length === 4")
    expected = [["public", "urn:1"], ["a secret", "urn:2"], ["missed", "urn:3"], ["at last", "urn:4"]]
    assert page.evaluate("received") == expected
