"""The Autobahn test suite against Relay's sessions on sockets hijacked from stock Hypercorn.

docs/websocket.md has the verdicts that are not OK, with their reasons; any other fails the test.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.harness import ROOT, RedisServer, RelayServer

HERE = Path(__file__).parent
ECHO_APP = HERE / "apps" / "echo.py"
FUZZING_CLIENT = HERE / "apps" / "fuzz.py"
DOCUMENT = ROOT / "docs" / "websocket.md"

_MIB = 1024 * 1024

#: All that is not about compression, and the number of cases that this is.
UNCOMPRESSED = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
UNCOMPRESSED_COUNT = 247 + 54

#: Kinds of data in 12.*, ways to negotiate in 13.*, and the sizes of messages and fragments that each is run with.
COMPRESSED_GROUPS = [f"12.{kind}" for kind in range(1, 6)] + [f"13.{way}" for way in range(1, 8)]
SIZES = range(1, 19)

#: The sizes that are always run, 1000 messages each: 16 bytes, 1 KiB, 4 KiB, and 8 KiB in fragments of 256 bytes. The others
#: are up to 128 KiB long and take many minutes.
QUICK = (1, 4, 5, 11)

Verdict = tuple[str, str]


class EchoServer(RelayServer):
    """The echo server, run by the same command as a relay."""

    name = "echo"

    def _command(self) -> list[str]:
        return ["hypercorn", "-k", "trio", "-b", f"127.0.0.1:{self.port}", f"{ECHO_APP}:app"]


@pytest.fixture
def echo_server(tmp_path: Path, redis_server: RedisServer) -> Iterator[EchoServer]:
    """The echo server with room for Autobahn's longest messages, and without pings of its own, which Autobahn counts."""
    directory = tmp_path / "echo"
    directory.mkdir()
    with EchoServer(
        directory,
        redis_server.url,
        max_message_bytes=16 * _MIB,
        queue_bytes=64 * _MIB,
        queue_messages=100_000,
        queue_max_age=300,
        message_timeout=300,
        heartbeat_interval=3600,
    ) as server:
        yield server


def documented(verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    """The exceptions in the document, by case: the verdict on the exchange and on the closing handshake. Those of which it
    says when they are OK are left out where they are."""
    rows = re.findall(
        r"^\| (\d+(?:\.\d+)+) \| ([A-Z -]+) \| ([A-Z -]+) \| (\S.*) \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    return {
        case: (exchange, close)
        for case, exchange, close, reason in rows
        if "(OK if " not in reason or verdicts[case] != ("OK", "OK")
    }


def run(server: EchoServer, cases: list[str], timeout: float) -> dict[str, Verdict]:
    """The verdict on each case."""
    url = f"ws://127.0.0.1:{server.port}/"
    command = [sys.executable, str(FUZZING_CLIENT), url, *cases]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=timeout)
    results: list[tuple[str, str, str, int]] = msgspec.json.decode(done.stdout, type=list[tuple[str, str, str, int]])
    slowest = sorted(results, key=lambda result: -result[3])[:5]
    print(f"{len(results)} cases; the slowest: {', '.join(f'{case} {took} ms' for case, _, _, took in slowest)}")
    return {case: (exchange, close) for case, exchange, close, _ in results}


def exceptions(verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    return {case: verdict for case, verdict in verdicts.items() if verdict != ("OK", "OK")}


def taken_over(server: EchoServer) -> int:
    return int(server.metric('relay_connections_accepted_total{transport="hijacked"}'))


def test_all_but_compression(echo_server: EchoServer) -> None:
    verdicts = run(echo_server, UNCOMPRESSED, timeout=300)
    assert len(verdicts) == UNCOMPRESSED_COUNT
    assert exceptions(verdicts) == documented(verdicts)
    assert taken_over(echo_server) == UNCOMPRESSED_COUNT
    assert not echo_server.metric('relay_connections_closed_total{reason="internal_error"}')


def test_compression(echo_server: EchoServer) -> None:
    """With RELAY_AUTOBAHN=all every size, otherwise the quick ones."""
    everything = os.environ.get("RELAY_AUTOBAHN") == "all"
    cases = [f"{group}.{size}" for group in COMPRESSED_GROUPS for size in (SIZES if everything else QUICK)]
    verdicts = run(echo_server, cases, timeout=3600 if everything else 300)
    assert sorted(verdicts) == sorted(cases)
    assert exceptions(verdicts) == {}
    assert taken_over(echo_server) == len(cases)
