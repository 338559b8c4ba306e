"""Fixtures: a Valkey for each test that wants one, and relays in front of it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme

from tests.harness import ROOT, Kind, RedisServer, RelayServer

#: Files that take more than some ten seconds, the slowest first: whoever starts with these does not wait for one at the end.
SLOWEST = (
    "benchmarks/test_benchmarks.py",
    "test_faults.py",
    "broker/test_high_availability.py",
    "server/test_autobahn.py",
    "server/test_slow_clients.py",
    "jobs/test_handover.py",
    "server/test_isolation.py",
    "broker/test_durable.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files come first, then the other integration tests, then those that start nothing."""
    integration = ROOT / "tests" / "integration"
    ranks = {integration / name: rank for rank, name in enumerate(SLOWEST)}

    def rank(item: pytest.Item) -> int:
        return ranks.get(item.path, len(ranks) + (not item.path.is_relative_to(integration)))

    items.sort(key=rank)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A real, empty Valkey."""
    directory = tmp_path / "redis"
    directory.mkdir()
    with RedisServer(directory, "--save", "") as server:
        yield server


class StartRelay(Protocol):
    """Starts a relay on the test's Redis and waits until it is ready."""

    def __call__(self, kind: Kind = "hypercorn", **settings: Any) -> RelayServer: ...


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The key and certificate files of a server on 127.0.0.1, and beside them the authority: ca.pem."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    key, chain = directory / "key.pem", directory / "cert.pem"
    issued.private_key_pem.write_to_path(str(key))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    return key, chain


@pytest.fixture
def start_relay(redis_server: RedisServer, tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[StartRelay]:
    """Start as many relays as a test needs; all are ended with it."""
    with ExitStack() as stack:
        count = 0

        def start(kind: Kind = "hypercorn", **settings: Any) -> RelayServer:
            nonlocal count
            count += 1
            directory = tmp_path / f"relay{count}"
            directory.mkdir()
            url = settings.pop("redis_url", redis_server.url)
            relay = RelayServer(directory, url, kind, certificate=certificate, **settings)
            return stack.enter_context(relay)

        yield start
