"""`relay doctor` names what is wrong with a real Redis, and finds nothing wrong with a healthy one."""

import ast
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.config import load
from relay.doctor.examination import Report, examine, redis_stage
from relay.doctor.redis_checks import commands_of, info_findings
from tests.commands import run
from tests.harness import ROOT, RedisServer
from tests.integration.broker.test_redis_tls import PASSWORD, TlsRedis
from tests.ports import free_port

#: The user of docs/deploy.md.
DOCUMENTED = [
    "on",
    ">secret",
    "~relay:*",
    "&relay:*",
    "&task_updates",
    "&general_updates",
    "+@all",
    "-@dangerous",
    "+info",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("valkey"), "--save", "") as server:
        yield server


def examined(url: str, timeout: float = 5.0, **settings: Any) -> Report:
    chosen, redis_settings = load(redis_url=url, **settings)
    return trio.run(examine, [redis_stage(url, chosen, redis_settings, timeout)], 4 * timeout)


def found(report: Report) -> dict[str, str]:
    return {finding.problem.id: finding.detail for result in report.results for finding in result.findings}


def url_of(server: RedisServer, login: str = "") -> str:
    return f"redis://{login}127.0.0.1:{server.port}/0"


@contextmanager
def configured(server: RedisServer, **values: str) -> Iterator[None]:
    """A configuration for a while."""
    with server.client() as admin:
        before = {name: admin.config_get(name)[name] for name in values}
        for name, value in values.items():
            admin.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                admin.config_set(name, value)


def user(server: RedisServer, *rules: str) -> str:
    """The URL of a user with the documented rules, and these."""
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "relay", "reset", *DOCUMENTED, *rules)
    return url_of(server, "relay:secret@")


def test_a_healthy_redis_has_no_problem_and_no_new_key(server: RedisServer) -> None:
    for url in (url_of(server), user(server)):
        report = examined(url)
        assert found(report) == {}
    assert [result.not_checked is None for result in report.results] == [True, True, False, True]  # no CONFIG for it
    with server.client() as admin:
        assert admin.keys("*") == []


def strings_in(path: Path) -> set[str]:
    """The words in capitals that stand alone in the code of a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch("[A-Z]+", text)}


def test_it_asks_for_every_command_that_is_run_and_for_no_other(server: RedisServer) -> None:
    """Those of the scripts, in Lua files and between Python, and those that the broker sends itself."""
    lua = [*(ROOT / "clients" / "wire").rglob("*.lua"), *(ROOT / "relay").rglob("*.py")]
    lua += (ROOT / "clients" / "wire" / "relay_wire").glob("*.py")
    scripts = {name for path in lua for name in re.findall(r"\bp?call\(\s*'([A-Z]+)'", path.read_text())}
    assert {"HSET", "XADD", "ZREVRANGE"} <= scripts
    with server.client() as admin:
        known = {name.decode().upper() for name in admin.command_list()}
    sent = set().union(*map(strings_in, (ROOT / "relay" / "broker").glob("*.py"))) & known
    assert {"EVALSHA", "SSUBSCRIBE", "WAIT"} <= sent
    (settings, _) = load(wait_replicas=1)
    asked = {command.split(" ")[0] for command in commands_of(settings, is_sharded=True)}
    by_channel = {"PUBLISH", "SUBSCRIBE", "PSUBSCRIBE"}
    by_other_checks = {"PING", "INFO"}
    assert asked | by_channel | by_other_checks == scripts | sent


def test_unreachable(server: RedisServer) -> None:
    report = examined(f"redis://127.0.0.1:{free_port()}/0")
    assert list(found(report)) == ["redis-unreachable"]
    assert [result.not_checked is not None for result in report.results] == [False, True, True, True]


def test_sentinels_and_nodes_that_are_away(server: RedisServer) -> None:
    port = free_port()
    details = found(examined(f"redis+sentinel://127.0.0.1:{port}/primary/0"))
    assert details == {"redis-unreachable": f"no Sentinel at 127.0.0.1:{port} names a primary of 'primary'"}
    # One node is away. The other answers, and is none.
    details = found(examined(f"redis+cluster://127.0.0.1:{port},127.0.0.1:{server.port}"))
    assert details == {"redis-kind": "the URL names a cluster"}


@pytest.mark.parametrize("login", ["relay:wrong@", "nobody:secret@"])
def test_wrong_password(server: RedisServer, login: str) -> None:
    user(server)
    assert list(found(examined(url_of(server, login)))) == ["redis-password"]


def test_missing_password(server: RedisServer) -> None:
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">other")
        try:
            assert list(found(examined(url_of(server)))) == ["redis-password"]
        finally:
            admin.execute_command("ACL", "SETUSER", "default", "nopass")  # its connection is authenticated


@pytest.mark.parametrize(
    ("rules", "problems"),
    [
        (["-xadd", "-hscan"], {"redis-command-denied": "HSCAN, XADD"}),
        (["-evalsha"], {"redis-command-denied": "EVALSHA"}),
        (["-publish"], {"redis-command-denied": "PUBLISH"}),
        (["-subscribe"], {"redis-command-denied": "SUBSCRIBE"}),
        (["-unsubscribe"], {"redis-command-denied": "UNSUBSCRIBE"}),
        (["resetchannels", "&relay:*", "&task_updates"], {"redis-channel-denied": "general_updates"}),
        (["resetchannels", "&general_updates", "&task_updates"], {"redis-channel-denied": "relay:doctor"}),
    ],
)
def test_denied(server: RedisServer, rules: list[str], problems: dict[str, str]) -> None:
    assert found(examined(user(server, *rules))) == problems


def test_denied_only_where_it_is_needed(server: RedisServer) -> None:
    url = user(server, "-wait", "-spublish")
    assert found(examined(url)) == {}
    assert found(examined(url, wait_replicas=1)) == {"redis-command-denied": "WAIT"}


def test_denied_keys(server: RedisServer) -> None:
    assert list(found(examined(user(server, "resetkeys", "~other:*")))) == ["redis-key-denied"]


def test_denied_extra_channel(server: RedisServer) -> None:
    extra = "jobs,news:*"
    assert found(examined(user(server), extra_channels=extra)) == {"redis-channel-denied": "jobs, news:*"}
    assert found(examined(user(server, "&jobs", "&news:*"), extra_channels=extra)) == {}


def test_full(server: RedisServer) -> None:
    with configured(server, maxmemory="1"):
        assert list(found(examined(url_of(server)))) == ["redis-full"]


def test_too_many_clients(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--maxclients", "1") as server, server.client() as admin:
        admin.ping()
        (detail,) = found(examined(server.url)).values()
        assert detail.startswith("max number of clients reached: Redis has `maxclients` connections")


def test_evicting(server: RedisServer) -> None:
    with configured(server, maxmemory="1gb", **{"maxmemory-policy": "allkeys-lru"}):
        assert found(examined(url_of(server))) == {"redis-evicts": "maxmemory-policy is allkeys-lru"}


def test_small_output_buffer(server: RedisServer) -> None:
    with configured(server, **{"client-output-buffer-limit": "pubsub 1048576 0 0"}):
        assert list(found(examined(url_of(server)))) == ["redis-output-buffer"]


def test_replica(server: RedisServer) -> None:
    port = free_port()
    with server.client() as admin:
        admin.replicaof("127.0.0.1", port)
        try:
            assert set(found(examined(url_of(server)))) == {"redis-replica"}
        finally:
            admin.replicaof("NO", "ONE")


def test_renamed(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--rename-command", "HSCAN", "hidden") as server:
        assert found(examined(server.url)) == {"redis-command-renamed": "HSCAN"}


def test_tls(server: RedisServer, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    assert list(found(examined(f"rediss://127.0.0.1:{server.port}/0", 1.0))) == ["redis-tls"]
    with TlsRedis(tmp_path, certificate) as secure:
        place = f":{PASSWORD.replace(' ', '%20')}@127.0.0.1:{secure.port}/0"
        assert list(found(examined(f"redis://{place}", 1.0))) == ["redis-tls"]
        assert list(found(examined(f"rediss://{place}", 1.0))) == ["redis-certificate"]
        assert found(examined(f"rediss://{place}?ssl_ca_certs={secure.authority}")) == {}


def test_old_version() -> None:
    """No Redis as old can be had: this is what its INFO says."""
    (finding,) = info_findings(
        "# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\nrole:master\r\n", is_sharded=False
    )
    assert (finding.problem.id, "5.0.14" in finding.detail) == ("redis-old", True)


def test_the_command(server: RedisServer) -> None:
    url = user(server, "-xadd")
    broken = run("doctor", "--redis-url", url, "--json", RELAY_PORT=str(free_port()))
    report = json.loads(broken.stdout)
    assert (broken.returncode, report["severity"]) == (8, "error")
    assert [each["id"] for check in report["checks"] for each in check["findings"]] == ["redis-command-denied"]
    healthy = run("doctor", "--redis-url", url_of(server), RELAY_PORT=str(free_port()), RELAY_QEUE_BYTES="1")
    assert (healthy.returncode, "RELAY_QUEUE_BYTES" in healthy.stdout) == (7, True)
    assert "secret" not in broken.stdout + healthy.stdout
