"""Logs: one JSON object a line, and no secret in it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from relay import logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Logging is of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
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
