"""Logs: one JSON object a line, and no secret in it."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog

from relay import logs
from relay.log_limit import LineLimit
from relay.log_writer import LogWriter


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Logging is of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    logs.flush()
    captured = capsys.readouterr()
    assert captured.out == ""  # commands print there
    return [json.loads(line) for line in captured.err.splitlines()]


def test_ours_and_the_standard_librarys_look_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    structlog.get_logger("relay.test").info("client dropped", client="1.2.3.4:5", code=4008)
    structlog.get_logger("relay.test").debug("not shown")
    logging.getLogger("other").warning("from %s", "elsewhere")
    logging.getLogger("other").debug("not shown")
    ours, theirs = logged(capsys)
    assert ours["timestamp"].endswith("Z")
    del ours["timestamp"], theirs["timestamp"]
    assert ours == {"event": "client dropped", "client": "1.2.3.4:5", "code": 4008, "level": "info"}
    assert theirs == {"event": "from elsewhere", "level": "warning"}


def test_an_exception_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    try:
        raise ZeroDivisionError("on purpose")
    except ZeroDivisionError:
        structlog.get_logger("relay.test").exception("session failed")
    (entry,) = logged(capsys)
    assert entry["level"] == "error"
    assert "ZeroDivisionError: on purpose" in entry["exception"]


def test_fields_that_are_named_as_secrets_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    structlog.get_logger("relay.test").info("login", password="x1", REDIS_PASSWORD="x2", api_token="x3", user="u")
    (entry,) = logged(capsys)
    assert entry["user"] == "u"
    assert not any(secret in str(entry) for secret in ("x1", "x2", "x3"))


def test_lines_of_a_flood_are_counted_and_not_logged() -> None:
    now = 0.0
    limit = LineLimit(lambda: now)

    def logged_of(count: int) -> list[Any]:
        lines = []
        for _ in range(count):
            with suppress(structlog.DropEvent):
                lines.append(limit(None, "warning", {"event": "published message skipped", "channel": "c"}))
        return lines

    assert len(logged_of(1000)) == 20
    assert limit(None, "warning", {"event": "another"}) == {"event": "another"}
    now = 3.5
    first, *more = logged_of(100)
    assert first["suppressed"] == 980
    assert [line.get("suppressed") for line in more] == [None, None]
    now = 1000.0
    assert len(logged_of(10)) == 10
    for number in range(5000):  # names that strangers make
        limit(None, "info", {"event": f"event {number}"})
    assert len(limit._kinds) < 1000


class Stalled(io.StringIO):
    """A file whose reader stalls."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()

    def write(self, text: str) -> int:
        assert self.reads.wait(60)
        return super().write(text)


def test_a_reader_that_stalls_costs_lines_and_no_time() -> None:
    file = Stalled()
    writer = LogWriter(file, max_waiting=1000)
    for number in range(1000):
        writer.write(f"line {number:03}\n")
    assert not writer.wait_written(0.01)
    file.reads.set()
    assert writer.wait_written(60)
    writer.write("later\n")
    assert writer.wait_written(60)
    lines = file.getvalue().splitlines()
    assert lines[:111] == [f"line {number:03}" for number in range(111)]
    assert json.loads(lines[111])["lines"] == 1000 - 111
    assert lines[112:] == ["later"]


def test_a_reader_that_has_gone_costs_nothing() -> None:
    file = io.StringIO()
    writer = LogWriter(file)
    file.close()
    writer.write("line\n")
    assert writer.wait_written(60)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://user:secret@host", "rediss://***@host"),
        ("redis://user:sec@ret@host", "redis://***@host"),
        ("redis://:sec%40r://et@[::1]:1/0", "redis://***@[::1]:1/0"),
        ("unix://user:secret@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        pytest.param(
            "redis://host/0?password=secret&db=1",
            "redis://host/0?password=***&db=1",
        ),
        pytest.param(
            "redis+sentinel://:secret@host/m/0?sentinel_password=secret&ssl_password=secret",
            "redis+sentinel://***@host/m/0?sentinel_password=***&ssl_password=***",
        ),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert logs.without_password(url) == shown
