"""Which requests come from this machine, and from no page of somebody else."""

from typing import Any

import pytest

from relay.server.local_requests import is_local


def scope(peer: str | None = "127.0.0.1", host: str | None = "127.0.0.1:8000", **headers: str) -> dict[str, Any]:
    named = ([] if host is None else [("host", host)]) + [
        (name.replace("_", "-"), each) for name, each in headers.items()
    ]
    raw = [(name.encode(), value.encode()) for name, value in named]
    return {"client": None if peer is None else (peer, 50000), "headers": raw}


@pytest.mark.parametrize(
    "local",
    [
        scope(),
        scope("::1", "[::1]:8000"),
        scope("::ffff:127.0.0.1"),
        scope(host="localhost"),
        scope(host="app.localhost:8000"),
        scope(origin="http://127.0.0.1:8000", sec_fetch_site="same-origin"),
        scope(sec_fetch_site="none"),
    ],
)
def test_a_program_or_a_page_of_the_relay(local: dict[str, Any]) -> None:
    assert is_local(local)


@pytest.mark.parametrize(
    "foreign",
    [
        scope("10.0.0.7"),
        scope(None),
        scope("not an address"),
        scope(host=None),
        scope(host="relay.example"),
        scope(host="127.0.0.1.evil.example"),
        scope(host="evil.example:80", origin="http://evil.example:80"),
        scope(origin="null"),
        scope(origin="http://localhost:3000"),
        scope(origin="http://127.0.0.1:9000"),
        scope(sec_fetch_site="same-site"),
        scope(x_forwarded_for="127.0.0.1"),
        scope(forwarded="for=127.0.0.1"),
        scope(x_real_ip="127.0.0.1"),
        scope(via="1.1 proxy"),
    ],
)
def test_anybody_else(foreign: dict[str, Any]) -> None:
    assert not is_local(foreign)
