"""Fixtures: Valkeys and relays in front of them, for one test alone or for many, one after the other."""

import asyncio
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme
from hypothesis import settings
from relay_wire import keys
from relay_wire.channels import GENERAL
from relay_wire.trio_bridge import trio_asyncio  # noqa: F401 - see pytest_configure

from relay.config import Settings
from tests import preloaded
from tests.harness import ROOT, Kind, RedisServer, RelayServer, eventually

# On a busy machine any example may take long; what is too slow shows in the durations of the run.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

#: Files that take more than some ten seconds, the slowest first: a run that starts with these does not wait for one at its end.
SLOWEST = (
    "benchmarks/test_relay_alone.py",
    "benchmarks/test_benchmarks.py",
    "test_faults.py",
    "broker/test_high_availability.py",
    "server/test_autobahn.py",
    "server/test_slow_clients.py",
    "jobs/test_handover.py",
    "server/test_isolation.py",
    "broker/test_durable.py",
)


def pytest_configure() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and every child would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # trio-asyncio, once imported, runs `asyncio.run` on loops of its own, with Trio's threads: tests of asyncio want asyncio.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of policies, in Python 3.14
        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    preloaded.enable()


def pytest_unconfigure() -> None:
    preloaded.close()


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

    def __call__(self, kind: Kind = "serve", **settings: Any) -> RelayServer: ...


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

        def start(kind: Kind = "serve", **settings: Any) -> RelayServer:
            nonlocal count
            count += 1
            directory = tmp_path / f"relay{count}"
            directory.mkdir()
            url = settings.pop("redis_url", redis_server.url)
            relay = RelayServer(directory, url, kind, certificate=certificate, **settings)
            return stack.enter_context(relay)

        yield start


def _default(name: str) -> str | None:
    """What a setting is when it is not given, as text."""
    field = Settings.model_fields.get(name)  # the arguments of a command are no settings
    return None if field is None else str(field.default)


class SharedServers:
    """A Valkey, and one relay at a time in front of it, for all tests of a process that leave them as they were.

    A relay starts in a second, which is more than most tests take.
    """

    def __init__(self, directory: Path, certificate: tuple[Path, Path]) -> None:
        self._directory = directory
        self._certificate = certificate
        self._made_for: tuple[Kind, dict[str, str]] | None = None
        self._relay: RelayServer | None = None
        self._started = 0
        (directory / "redis").mkdir()
        self.redis = RedisServer(directory / "redis", "--save", "")

    def relay(self, kind: Kind, settings: dict[str, Any]) -> RelayServer:
        """The relay that is there, without clients; or another one, when it has other settings."""
        made_for = kind, {name: text for name, value in settings.items() if (text := str(value)) != _default(name)}
        if self._relay is not None and self._made_for == made_for and self._is_as_it_was(self._relay):
            return self._relay
        self._end_relay()
        self._started += 1
        directory = self._directory / f"relay{self._started}"
        directory.mkdir()
        self._relay = RelayServer(directory, self.redis.url, kind, certificate=self._certificate, **settings)
        self._made_for = made_for
        return self._relay

    def settle(self) -> None:
        """Wait until the relay has forgotten the clients of a test. Only then may its channels be deleted from Redis."""
        if self._relay is None:
            return
        assert self._relay.child.poll() is None, f"the relay ended:\n{self._relay.logged()}"
        self._relay.begin_again()
        with self.redis.client() as client:
            kept = keys.pubsub_channel(GENERAL).encode()
            eventually(lambda: set(client.pubsub_channels("relay:{*")) <= {kept})

    def _is_as_it_was(self, relay: RelayServer) -> bool:
        """The relay runs, and no test has flushed its Redis."""
        with self.redis.client() as client:
            return relay.child.poll() is None and bool(client.exists(keys.generation(0)))

    def _end_relay(self) -> None:
        if self._relay is not None:
            self._relay.__exit__(None, None, None)
            self._relay = None

    def close(self) -> None:
        self._end_relay()
        self.redis.__exit__(None, None, None)


@pytest.fixture(scope="session")
def _shared_servers(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[SharedServers]:
    servers = SharedServers(tmp_path_factory.mktemp("shared"), certificate)
    yield servers
    servers.close()


@pytest.fixture
def shared_redis(_shared_servers: SharedServers) -> RedisServer:
    """A real, empty Valkey that other tests had before. No test may end it or change its configuration."""
    _shared_servers.redis.clear()
    return _shared_servers.redis


@pytest.fixture
def share_relay(_shared_servers: SharedServers, shared_redis: RedisServer) -> Iterator[StartRelay]:
    """Gives a test one relay on the shared Valkey, which another test may have had before. It is as good as new: without
    clients, and its counts and its log begin here. No test may end it or stop its processes."""
    relay: RelayServer | None = None

    def share(kind: Kind = "serve", **settings: Any) -> RelayServer:
        nonlocal relay
        assert relay is None, "one for each test"
        relay = _shared_servers.relay(kind, settings)
        return relay

    yield share
    _shared_servers.settle()
