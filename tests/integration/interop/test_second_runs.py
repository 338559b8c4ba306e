"""A task id that is used again, on a page as old frontends are: no run shows the error or the end of the last one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from celery import Celery

from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, RelayServer
from tests.integration.client.queues.workers import JOBS, celery_worker
from tests.integration.interop.browser import Report, chromium, page_server

PAGE = Path(__file__).parent / "pages" / "old_frontend.html"


class Cards:
    """What the page's two cards have shown, one text after the other."""

    def __init__(self, report: Callable[[], Report]) -> None:
        self._report = report
        self.shown: dict[str, list[str]] = {"first": [], "second": []}

    def until(self, card: str, text: str) -> None:
        """Wait until a card shows a text, or is subscribed."""
        while True:
            report = self._report()
            assert report["event"] != "closed", self.shown
            if report["event"] == "shown":
                self.shown[report["card"]].append(report["text"])
            if report["card"] == card and report.get("text", report["event"]) == text:
                return


def test_a_plain_publisher_that_uses_an_id_again(
    shared_redis: RedisServer, share_relay: StartRelay, tmp_path: Path
) -> None:
    """As databases do whose ids begin at 1 again, and scripts that are started once more."""
    relay = share_relay()

    def create() -> None:
        info = {"task_id": 1, "status": "pending", "title": "A picture"}
        shared_redis.publish_general(type="task_created", task_info=info)

    with page_server(PAGE) as (page, report), chromium(tmp_path, url_of(page, relay, "1")):
        cards = Cards(report)
        cards.until("first", "subscribed")
        create()
        shared_redis.publish_task("1", status="in_progress", progress=30)
        shared_redis.publish_task("1", status="failed", error="no paint", completed_at="2026-01-01T00:00:00Z")
        cards.until("first", "failed 30% failed: no paint")
        create()
        cards.until("first", "pending 0%")
        shared_redis.publish_task("1", status="in_progress", progress=20, message="half of run 2")
        cards.until("second", "in_progress 20%")
        shared_redis.publish_task("1", status="completed", progress=100, completed_at="2026-01-01T00:00:01Z")
        cards.until("second", "completed 100% complete")
        assert cards.shown["second"] == ["in_progress 20%", "completed 100% complete"]
        # The third run is not announced.
        shared_redis.publish_task("1", status="in_progress", progress=10)
        cards.until("first", "in_progress 10%")
        shared_redis.publish_task("1", status="completed", progress=100, completed_at="2026-01-01T00:00:02Z")
        cards.until("first", "completed 100% complete")
    runs = runs_in(cards.shown["first"])
    assert [run[-1] for run in runs] == ["failed 30% failed: no paint", *["completed 100% complete"] * 2]


def test_a_celery_task_with_two_retries(
    redis_server: RedisServer, start_relay: StartRelay, tmp_path: Path, tmp_path_factory: Any
) -> None:
    relay = start_relay()
    with (
        RedisServer(tmp_path_factory.mktemp("broker"), "--save", "") as broker,
        celery_worker(tmp_path_factory.mktemp("worker"), broker, redis_server),
        broker.client() as queue,
        page_server(PAGE) as (page, report),
        chromium(tmp_path, url_of(page, relay, "c-1")),
    ):
        cards = Cards(report)
        cards.until("first", "subscribed")
        celery = Celery(broker=broker.url, backend=broker.url)
        result = celery.send_task(f"{JOBS}.succeed_at_last", task_id="c-1")
        cards.until("second", "in_progress 20%")
        queue.rpush("go on:c-1", 1)
        cards.until("first", "completed 100% complete")
        assert result.get(timeout=PATIENCE) == "done"
        celery.close()
    runs = runs_in(cards.shown["first"])
    assert [run[-1] for run in runs] == [
        "failed 10% failed: PaintError: no paint in run 1",
        "failed 20% failed: PaintError: no paint in run 2",
        "completed 100% complete",
    ]
    state = json.loads(relay.get("/api/tasks/c-1")[1])["data"]
    assert state["status"] == "completed"
    assert "error" not in state


def url_of(page: str, relay: RelayServer, task_id: str) -> str:
    return f"{page}?relay={quote(relay.url)}&task={task_id}"


def runs_in(shown: list[str]) -> list[list[str]]:
    """Cut the texts of a card behind each end. Of a run, only its last text may say how it went."""
    runs: list[list[str]] = [[]]
    for text in shown:
        if runs[-1] and has_outcome(runs[-1][-1]) and not has_outcome(text):
            runs.append([])
        runs[-1].append(text)
    for run in runs:
        # The fields of the last run go in a message of their own, which may be shown first.
        beginning = run[1:-1] if run[0].split()[0] in ("failed", "completed") else run[:-1]
        assert all(text.split()[0] in ("pending", "in_progress") for text in beginning), runs
    return runs


def has_outcome(text: str) -> bool:
    return text.count(" ") > 1
