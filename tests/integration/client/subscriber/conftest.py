"""Fixtures of the subscribers' tests."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest

from tests.harness import RedisServer, RelayServer
from tests.integration.client.flavours import Flavour
from tests.integration.client.subscriber.bridge import Subscribe, subscribe_of
from tests.integration.client.subscriber.servers import Shared


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Shared"]:
    """A Valkey and a relay for all tests that leave them as they were. Slow clients are dropped early."""
    redis_home, relay_home = tmp_path_factory.mktemp("redis"), tmp_path_factory.mktemp("relay")
    bounds: dict[str, Any] = {"queue_max_age": 0.5, "queue_bytes": 64 << 20, "max_subscriptions": 8}
    with (
        RedisServer(redis_home, "--save", "") as redis_server,
        RelayServer(relay_home, redis_server.url, "serve", **bounds) as relay,
    ):
        yield redis_server, relay


@pytest.fixture
def subscribe(flavour: Flavour) -> Subscribe:
    """`subscribe` of each flavour, with the face of Trio's."""
    return subscribe_of(flavour)


@pytest.fixture
def task_id() -> str:
    """A task that no other test has used."""
    return f"task-{token_hex(4)}"
