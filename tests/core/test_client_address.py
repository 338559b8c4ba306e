"""Addresses behind proxies: what a client writes into a header never makes it another client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.client_address import MAX_HOPS, ClientAddress, TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8", "unix"])

CLIENT, OTHER = "203.0.113.9", "198.51.100.4"

CASES = [
    ("no header", {}, "10.0.0.1"),
    ("one hop", {"x-forwarded-for": CLIENT}, CLIENT),
    ("two proxies", {"x-forwarded-for": f"{CLIENT}, 10.2.0.1"}, CLIENT),
    ("a client that lies", {"x-forwarded-for": f"{OTHER}, {CLIENT}"}, CLIENT),
    ("all are proxies", {"x-forwarded-for": "10.9.9.9, 10.2.0.1"}, "10.9.9.9"),
    ("rubbish", {"x-forwarded-for": "<script>"}, "10.0.0.1"),
    ("rubbish before", {"x-forwarded-for": f"rubbish, {CLIENT}"}, CLIENT),
    ("rubbish between", {"x-forwarded-for": f"{CLIENT}, rubbish, 10.2.0.1"}, "10.2.0.1"),
    ("empty", {"x-forwarded-for": ""}, "10.0.0.1"),
    ("trailing comma", {"x-forwarded-for": f"{CLIENT},"}, "10.0.0.1"),
    ("with a port", {"x-forwarded-for": f"{CLIENT}:4711"}, CLIENT),
    ("IPv6", {"x-forwarded-for": "2001:DB8:0::1"}, "2001:db8::1"),
    ("IPv6 in brackets", {"x-forwarded-for": "[2001:db8::1]:4711"}, "2001:db8::1"),
    ("IPv4 within IPv6", {"x-forwarded-for": f"::ffff:{CLIENT}"}, CLIENT),
    ("leading zeros", {"x-forwarded-for": "203.0.113.010"}, "10.0.0.1"),
    ("Forwarded", {"forwarded": f"for={CLIENT};proto=https;by=10.0.0.1"}, CLIENT),
    ("Forwarded, a client that lies", {"forwarded": f"for={OTHER}, For={CLIENT}"}, CLIENT),
    ("Forwarded, quoted", {"forwarded": 'for="[2001:db8::1]:4711"'}, "2001:db8::1"),
    ("Forwarded, hidden", {"forwarded": "for=_gazonk"}, "10.0.0.1"),
    ("Forwarded without for", {"forwarded": f"for={CLIENT}, proto=https"}, "10.0.0.1"),
    ("an open quote", {"forwarded": f'for={OTHER};by=", for={CLIENT}'}, CLIENT),
    ("both agree", {"forwarded": f"for={CLIENT}", "x-forwarded-for": CLIENT}, CLIENT),
    ("both disagree", {"forwarded": f"for={OTHER}", "x-forwarded-for": CLIENT}, "10.0.0.1"),
    ("the other is hidden", {"forwarded": "for=unknown", "x-forwarded-for": CLIENT}, CLIENT),
]


def headers(values: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.title().encode(), value.encode("latin1")) for name, value in values.items()]


@pytest.mark.parametrize(("sent", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_rightmost_address_that_is_no_proxys_is_the_clients(sent: dict[str, str], expected: str) -> None:
    assert PROXIES.client(("10.0.0.1", 80), headers(sent)).host == expected
    assert PROXIES.client(("::ffff:10.0.0.1", 80, 0, 0), headers(sent)).host == expected


@pytest.mark.parametrize("name", ["forwarded", "x-forwarded-for"])
def test_several_headers_are_one_list(name: str) -> None:
    mark = "for=" if name == "forwarded" else ""
    lines = [(name.encode(), f"{mark}{host}".encode()) for host in (OTHER, CLIENT, "10.2.0.1")]
    assert PROXIES.client(("10.0.0.1", 80), lines).host == CLIENT


@pytest.mark.parametrize("peer", [(CLIENT, 5), (CLIENT, 5, 0, 0), ["203.0.113.9", 5], ("2001:db8::1", 5, 0, 0)])
def test_a_peer_that_is_no_proxy_is_the_client_whatever_it_says(peer: object) -> None:
    sent = headers({"x-forwarded-for": OTHER, "forwarded": f"for={OTHER}"})
    assert PROXIES.client(peer, sent).host in (CLIENT, "2001:db8::1")
    assert TrustedProxies([]).client(("127.0.0.1", 5), sent) == ClientAddress("127.0.0.1", 5)


def test_a_unix_socket_has_no_address_and_is_trusted_by_name() -> None:
    sent = headers({"x-forwarded-for": CLIENT})
    assert PROXIES.client("", sent).host == CLIENT
    assert TrustedProxies(["10.0.0.0/8"]).client("", sent) == ClientAddress(None)
    assert TrustedProxies([]).client(None, sent).network is None


def test_addresses_are_shown_with_their_ports_and_counted_without() -> None:
    assert str(ClientAddress(CLIENT, 80)) == "203.0.113.9:80"
    assert str(ClientAddress("2001:db8::1", 80)) == "[2001:db8::1]:80"
    assert str(ClientAddress(None, None)) == "unknown"
    assert ClientAddress("2001:db8:1:2:3::1").network == ClientAddress("2001:db8:1:2:4::1").network
    assert ClientAddress("2001:db8:1:2::1").network != ClientAddress("2001:db8:1:3::1").network
    assert ClientAddress(CLIENT).network == CLIENT


def test_no_more_hops_are_read_than_there_can_be() -> None:
    hops = ", ".join([CLIENT, *["10.2.0.1"] * MAX_HOPS])
    assert PROXIES.client(("10.0.0.1", 80), headers({"x-forwarded-for": hops})).host == "10.2.0.1"


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.sampled_from(["forwarded", "x-forwarded-for"]))
def test_whatever_a_client_sends_the_proxys_word_counts(lie: str, name: str) -> None:
    """A proxy appends to the header that came."""
    mine = f"for={CLIENT}" if name == "forwarded" else CLIENT
    for value in (f"{lie}, {mine}", f"{lie}, {mine}, {mine.replace(CLIENT, '10.2.0.1')}"):
        assert PROXIES.client(("10.0.0.1", 80), headers({name: value})).host == CLIENT


@given(st.binary(max_size=60))
def test_no_header_is_an_error(value: bytes) -> None:
    for name in (b"forwarded", b"x-forwarded-for"):
        assert PROXIES.client(("10.0.0.1", 80), [(name, value)]).host is not None
