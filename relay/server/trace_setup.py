"""From the settings to traces, where they ask for any."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay.config import Settings
from relay.core.errors import ConfigError
from relay.traces import Traces

#: Seconds that the exporter has at the end for what is queued, and the share of a shutdown that this may take.
_SHUTDOWN_TIMEOUT = 2.0
_SHARE_OF_SHUTDOWN = 0.1


def require_trace_packages(settings: Settings) -> None:
    """Raise ConfigError if the settings ask for traces, and the packages for them are not installed."""
    if not settings.traces:
        return
    try:
        # OpenTelemetry is an extra: a relay without traces needs none of it.
        import relay.otel  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"RELAY_TRACES is set, and the package {error.name} is not installed. Run: pip install 'trio-relay[otel]'"
        ) from None


@asynccontextmanager
async def traces_of(settings: Settings) -> AsyncIterator[Traces | None]:
    """Make traces for the time of the block, if the settings ask for them.

    Raises:
        ConfigError: The packages for traces are not installed, or OpenTelemetry's own settings are wrong.
    """
    if not settings.traces:
        yield None
        return
    require_trace_packages(settings)
    from relay.otel import exporting

    timeout = min(_SHUTDOWN_TIMEOUT, settings.graceful_timeout * _SHARE_OF_SHUTDOWN)
    async with exporting(with_names=settings.trace_names, shutdown_timeout=timeout) as traces:
        yield traces
