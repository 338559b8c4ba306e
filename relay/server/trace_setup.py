"""From the settings to traces, where they ask for any."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay.config import Settings
from relay.core.errors import ConfigError
from relay.traces import Traces


@asynccontextmanager
async def traces_of(settings: Settings) -> AsyncIterator[Traces | None]:
    """Make traces for the time of the block, if the settings ask for them.

    Raises:
        ConfigError: The packages for traces are not installed, or OpenTelemetry's own settings are wrong.
    """
    if not settings.traces:
        yield None
        return
    try:
        # OpenTelemetry is an extra: a relay without traces needs none of it.
        from relay.otel import exporting
    except ImportError as error:
        raise ConfigError(
            f"RELAY_TRACES is set, and the package {error.name} is not installed. Run: pip install 'trio-relay[otel]'"
        ) from None
    async with exporting(with_names=settings.trace_names) as traces:
        yield traces
