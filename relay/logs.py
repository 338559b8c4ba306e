"""Logs through structlog: readable on a terminal, one JSON object a line elsewhere."""

import atexit
import logging
import re
import sys
from typing import Any, TextIO, cast

import structlog

from relay.log_limit import LineLimit
from relay.log_writer import LogWriter

_SECRET_WORDS = ("password", "secret", "token", "authorization")


def _hide_secrets(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "***"
    return event


def without_password(url: str) -> str:
    """Return a URL that may be shown: user and password, before the @ or in the query, are replaced by stars."""
    scheme, separator, rest = url.partition("://")
    _, at, host = rest.rpartition("@")
    return re.sub(r"((?:^|[?&])[^=&?]*password=)[^&]*", r"\1***", f"{scheme}{separator}{'***@' if at else ''}{host}")


#: What `configure` made; None before.
_writer: LogWriter | None = None

#: Seconds that the last lines of a process may take.
_FLUSH_SECONDS = 1.0


def flush() -> None:
    """Wait until what was logged is written, for a second at most. For a process that is about to end by itself."""
    if _writer is not None:
        _writer.wait_written(_FLUSH_SECONDS)


def configure(level: str) -> None:
    """Set up logging for this process, standard library included. The program calls it once; nothing happens on import.

    Args:
        level: Name of the least level that is logged, in any case.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
    ]
    on_terminal = sys.stderr.isatty()
    global _writer
    _writer = LogWriter(sys.stderr)
    atexit.register(flush)
    file = cast(TextIO, _writer)
    renderer: structlog.typing.Processor
    if on_terminal:
        renderer = structlog.dev.ConsoleRenderer()
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[LineLimit(), *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
