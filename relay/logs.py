"""Logs through structlog: readable on a terminal, one JSON object a line elsewhere."""

import logging
import re
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

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


class _BestEffortStream:
    """Where logs are written. When its reader has gone, or is too slow for a non-blocking pipe, only lines are lost."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it was closed
            return self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()


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
    file = cast(TextIO, _BestEffortStream(sys.stderr))
    renderer: structlog.typing.Processor
    if on_terminal:
        renderer = structlog.dev.ConsoleRenderer()
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
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
