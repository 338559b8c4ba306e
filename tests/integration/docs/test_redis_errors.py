"""The table of Redis' own errors in docs/troubleshoot.md quotes what a real server answers."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.broker.embedded import start_server
from tests.harness import PATIENCE, ROOT, RedisServer, eventually
from tests.ports import free_port

SECTION = (ROOT / "docs" / "troubleshoot.md").read_text().split("\n## Redis' own errors\n")[1].split("\n## ")[0]


def documented() -> dict[str, list[str]]:
    """The texts of each code."""
    texts: dict[str, list[str]] = {}
    for line in SECTION.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"`[A-Z]+`", cells[0]):
            texts.setdefault(cells[0].strip("`"), []).extend(re.findall(r"`(.*?)`", cells[1]))
    return texts


def errors_of(port: int, *commands: str) -> list[str]:
    """The errors that a server answers commands with."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.sendall("".join(f"{command}\r\n" for command in (*commands, "QUIT")).encode())
        lines = answers.read().decode().splitlines()
    return [line[1:] for line in lines if line.startswith("-")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Whose snapshots fail: their file is a directory."""
    directory = tmp_path_factory.mktemp("redis")
    with RedisServer(directory, "--save", "3600 1", "--dbfilename", "taken.rdb") as running:
        (directory / "taken.rdb").mkdir()
        yield running


@contextmanager
def configured(server: RedisServer, **values: str) -> Iterator[None]:
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in values}
        for name, value in values.items():
            client.config_set(name, value)
        yield
        for name, value in before.items():
            client.config_set(name, value)


def test_errors_of_one_server(server: RedisServer) -> None:
    found: list[str] = []
    port = server.port
    with configured(server, requirepass="secret"):
        found += errors_of(port, "PING", "HELLO 3", "AUTH wrong")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">p", "~relay:*", "&relay:*", "+@all", "-info")
        found += errors_of(port, "AUTH limited p", "INFO", "GET other", "PUBLISH other message")
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())
        found += errors_of(port, "SET key value")
        with configured(server, **{"replica-serve-stale-data": "no"}):
            found += errors_of(port, "GET key")
        client.execute_command("REPLICAOF", "NO", "ONE")
        with configured(server, maxmemory="1"):
            found += errors_of(port, "SET key value")
        with configured(server, **{"busy-reply-threshold": "1"}):
            found += busy(server)
        client.set("key", "value")
        client.execute_command("BGSAVE")
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        found += errors_of(port, "SET key value")
        client.config_set("maxclients", "1")
        with socket.create_connection(("127.0.0.1", port)) as refused:
            found.append(refused.recv(100).decode().strip("-\r\n"))
        client.config_set("maxclients", "1000")
    found += errors_of(port, "NONSENSE")
    assert_documented(
        found, {"NOAUTH", "WRONGPASS", "NOPERM", "READONLY", "MASTERDOWN", "OOM", "MISCONF", "BUSY", "ERR"}
    )


def busy(server: RedisServer) -> list[str]:
    """The answer while a script runs on."""
    with socket.create_connection(("127.0.0.1", server.port)) as runs:
        runs.sendall(b'EVAL "while true do end" 0\r\n')
        errors = eventually(lambda: errors_of(server.port, "PING"))
        assert errors_of(server.port, "SCRIPT KILL") == []
        assert runs.recv(10).startswith(b"-")
    return errors


def test_errors_of_a_cluster(tmp_path: Path) -> None:
    options = ("--save", "", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with RedisServer(tmp_path, *options) as node, node.client() as client:
        found = errors_of(node.port, "GET a")
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        found += errors_of(node.port, "MSET a 1 b 2")
    assert_documented(found, {"CLUSTERDOWN", "CROSSSLOT"})


def test_the_error_while_data_is_loaded(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--save", "3600 1") as full:
        with full.client() as client:
            client.mset({str(number): "x" * 1000 for number in range(1000)})
            client.save()
        full.kill()
        slowly = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
        child = start_server(full.port, tmp_path, "--save", "3600 1", *slowly)
        try:
            found = eventually(lambda: tried(lambda: errors_of(full.port, "GET key")))
        finally:
            child.kill()
            child.wait()
    assert_documented(found, {"LOADING"})


def tried(ask: Callable[[], list[str]]) -> list[str]:
    try:
        return ask()
    except OSError:  # it does not listen yet
        return []


def assert_documented(found: list[str], codes: set[str]) -> None:
    """Each error is in the table, and each text of these codes was found."""
    table = documented()
    for error in found:
        code, text = error.split(" ", 1)
        assert any(known in text for known in table[code]), error
    assert {error.split()[0] for error in found} == codes
    known_only_elsewhere = {"The cluster is down"}
    for code in codes:
        for text in set(table[code]) - known_only_elsewhere:
            assert any(text in error for error in found), text
