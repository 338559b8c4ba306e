"""One Valkey for all these tests, as good as new for each: most of them would spend their time on starting one."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from tests.harness import RedisServer
from tests.integration.client.flavours import FLAVOURS, Flavour


@pytest.fixture(scope="session")
def _one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "", "--repl-diskless-sync-delay", "0") as server:
        yield server


@pytest.fixture
def redis_server(_one_server: RedisServer) -> RedisServer:
    """A real, empty Valkey, as its options made it."""
    if _one_server.child.poll() is not None:
        _one_server.start()
    _one_server.thaw()
    with _one_server.client() as client:
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        client.config_set("maxmemory", "0")
        with suppress(redis.ResponseError):
            client.acl_deluser("reader")
        client.flushall()
        client.script_flush()
        client.config_resetstat()
    return _one_server


@pytest.fixture
def lasting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Valkey that keeps what it has acknowledged, whatever happens to it."""
    options = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
    with RedisServer(tmp_path_factory.mktemp("lasting"), *options) as server:
        yield server


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Each of the three."""
    value: Flavour = request.param
    return value
