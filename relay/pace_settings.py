"""The settings of how fast clients go and come: the end of a relay, and the connects of each second."""

from typing import Self

from pydantic import Field, FiniteFloat, model_validator
from pydantic_settings import BaseSettings

_YEAR = 366 * 86_400

#: The share of `graceful_timeout` that clients have. The rest is for the last closing handshakes and Redis.
_SHARE_OF_CLIENTS = 0.75


class PaceSettings(BaseSettings):
    """How fast clients go and come. Times are in seconds."""

    workers: int = Field(1, ge=1, le=256, description="processes behind the port, for `relay serve`")
    graceful_timeout: FiniteFloat = Field(20.0, gt=0, le=3600, description="shutdown must be over within this")
    drain_seconds: FiniteFloat | None = Field(
        None,
        ge=0,
        description="over how long a shutdown closes the clients; if not set, half of `RELAY_GRACEFUL_TIMEOUT`",
    )
    close_timeout: FiniteFloat = Field(2.0, gt=0, le=_YEAR, description="how long a closing handshake may take")
    connect_rate: FiniteFloat = Field(
        0.0,
        ge=0,
        le=1e6,
        description="connects of all clients in any second, of all workers together; 0 is no limit",
    )

    @property
    def closing_seconds(self) -> float:
        """What a shutdown may spend on clients."""
        return max(0.1, self.graceful_timeout * _SHARE_OF_CLIENTS - self.close_timeout)

    @property
    def drain_window(self) -> float:
        """Over how long a shutdown closes the clients, in seconds; the last one has `close_timeout` left."""
        wanted = self.graceful_timeout / 2 if self.drain_seconds is None else self.drain_seconds
        return min(wanted, max(0.0, self.closing_seconds - self.close_timeout))

    @model_validator(mode="after")
    def _check_pace(self) -> Self:
        if self.close_timeout >= self.graceful_timeout:
            raise ValueError("close_timeout: must be less than RELAY_GRACEFUL_TIMEOUT, which it is a part of")
        if self.drain_seconds is not None and self.drain_seconds > self.drain_window:
            needed = (self.drain_seconds + 2 * self.close_timeout) / _SHARE_OF_CLIENTS
            raise ValueError(
                f"drain_seconds: needs RELAY_GRACEFUL_TIMEOUT={needed:.4g} at least, which it is a part of"
            )
        if self.workers > 1 and 0 < self.connect_rate < self.workers:
            raise ValueError("connect_rate: must be 0, or at least RELAY_WORKERS, which share it")
        return self
