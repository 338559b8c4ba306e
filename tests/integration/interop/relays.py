"""Ways to run a relay, and the transport that its clients get."""

from typing import NamedTuple

import pytest

from tests.conftest import StartRelay
from tests.harness import Kind, RelayServer


class Way(NamedTuple):
    """A way to run the relay, and the transport that its clients must then be on."""

    kind: Kind
    transport: str
    hijack_sockets: bool = True

    def start(self, start: StartRelay) -> RelayServer:
        return start(self.kind, hijack_sockets=self.hijack_sockets)

    def check(self, relay: RelayServer, clients: int = 1) -> None:
        """All clients came over the expected transport. (The metrics behind TLS are out of the harness's reach.)"""
        if self.kind != "hypercorn-tls":
            assert relay.metric(f'relay_connections_accepted_total{{transport="{self.transport}"}}') == clients


HIJACKED = Way("hypercorn", "hijacked")
PLAIN_ASGI = Way("hypercorn", "asgi", hijack_sockets=False)
UVICORN = Way("uvicorn", "asgi")


def ways(*ways: Way) -> pytest.MarkDecorator:
    """The scope has pytest run all tests of one way together, on one relay."""
    return pytest.mark.parametrize("way", ways, ids=[f"{way.kind}-{way.transport}" for way in ways], scope="module")
