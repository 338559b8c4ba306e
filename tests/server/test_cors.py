"""Origins and hosts: whose pages may use the relay, and whose cookies count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.server.cors import CorsPolicy, is_same_origin

NAMED = CorsPolicy(["https://app.example", "http://localhost:3000"], ["relay.example", "[::1]"])
OWN = CorsPolicy(["same-origin"], ["relay.example"])
ANY = CorsPolicy(["*"], ["*"])
NULL = CorsPolicy(["null", "https://app.example"], ["*"])
UNNAMED_HOST = CorsPolicy(["https://app.example"], ["*"])

#: Origins that look like one that is allowed, and are others.
FOREIGN = [
    "https://evil.example",
    "null",
    "HTTPS://APP.EXAMPLE",
    "https://App.example",
    "https://app.example.evil.example",
    "https://evil-app.example",
    "https://app.example@evil.example",
    "https://evil.example/https://app.example",
    "https://evil.example#https://app.example",
    "https://app.example:444",
    "https://app.example:443",  # which no browser sends
    "https://app.example.",
    "https://app.example/",
    "https://app.example ",
    "https://app.example, https://evil.example",
    "http://app.example",
    "wss://app.example",
    "https://sub.app.example",
    "http://localhost",
    "http://localhost:30000",
    "http://127.0.0.1:3000",
    "http://[::1]:3000",
    "https://app\u00e9.example",
    "*",
    "same-origin",
    "",
    "file://",
    "://",
]


def headers(host: str | None = "relay.example", origin: str | None = None, **more: str) -> list[tuple[bytes, bytes]]:
    found = {"host": host, "origin": origin} | {name.replace("_", "-"): value for name, value in more.items()}
    return [(name.encode(), value.encode("latin1")) for name, value in found.items() if value is not None]


@pytest.mark.parametrize("origin", FOREIGN)
def test_an_origin_that_only_looks_like_one_that_is_allowed_is_refused(origin: str) -> None:
    for policy in (NAMED, OWN, UNNAMED_HOST):
        assert policy.refusal_reason(headers(origin=origin)) == "origin"
    for policy in (NAMED, OWN, UNNAMED_HOST, ANY, NULL):
        assert not policy.allows_cookies(headers(origin=origin), is_secure=False)


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:3000", None])
def test_an_origin_that_is_named_is_allowed_with_its_cookies(origin: str | None) -> None:
    assert NAMED.refusal_reason(headers(origin=origin)) is None
    assert NAMED.allows_cookies(headers(origin=origin), is_secure=False)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://relay.example", "relay.example"),
        ("https://relay.example", "relay.example:443"),
        ("http://relay.example", "RELAY.example:80"),
        ("http://relay.example:8000", "relay.example:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[::1]", "[::1]"),
    ],
)
def test_the_relays_own_pages_are_allowed(origin: str, host: str) -> None:
    assert is_same_origin(origin, host)
    assert NAMED.refusal_reason(headers(host, origin)) is None
    assert ANY.allows_cookies(headers(host, origin), is_secure=False)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://relay.example:8443", "relay.example"),
        ("https://relay.example", "relay.example:80"),
        ("http://relay.example", "relay.example:443"),
        ("http://relay.example:8000", "relay.example:8001"),
        ("https://relay.example.", "relay.example"),
        ("https://evil.example", "relay.example"),
        ("capacitor://relay.example", "relay.example"),
        ("null", "null"),
        ("https://", ""),
        ("https://relay.example", ""),
    ],
)
def test_pages_of_another_name_or_port_are_not_the_relays_own(origin: str, host: str) -> None:
    assert not is_same_origin(origin, host)
    assert not ANY.allows_cookies(headers(host, origin), is_secure=False)
    assert OWN.refusal_reason(headers(host, origin)) is not None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "relay.example.evil.example",
        "evil-relay.example",
        "relay.example@evil.example",
        "relay.example.",
        "relay.example:8000:evil",
        "relay.example:evil",
        "relay.example:\u00b2",
        "relay.example, evil.example",
        "[::1]evil.example",
        "[::2]",
        "::1",
        "0:0:0:0:0:0:0:1",
        "127.0.0.1",
        "*",
        "",
        None,
    ],
)
def test_a_host_that_is_not_named_is_refused(host: str | None) -> None:
    assert NAMED.refusal_reason(headers(host)) == "host"
    assert ANY.refusal_reason(headers(host)) is None


@pytest.mark.parametrize("host", ["relay.example", "Relay.Example", "relay.example:8000", "[::1]", "[::1]:8000"])
def test_a_host_that_is_named_is_allowed_at_any_port(host: str) -> None:
    assert NAMED.refusal_reason(headers(host)) is None


def test_several_hosts_or_origins_are_refused() -> None:
    twice = [*headers("relay.example"), *headers("evil.example")]
    assert NAMED.refusal_reason(twice) == NAMED.refusal_reason(twice[::-1]) == "host"
    both = [*headers(origin="https://app.example"), (b"Origin", b"https://evil.example")]
    assert NAMED.refusal_reason(both) == NAMED.refusal_reason(both[::-1]) == "origin"
    assert not NAMED.allows_cookies(both, is_secure=False)


def test_a_name_that_was_made_to_lead_here_has_no_pages_of_its_own() -> None:
    """DNS rebinding: the page, its Origin and the Host are the attacker's. Only the names of the relay tell them apart."""
    rebound = headers("evil.example:8000", "http://evil.example:8000")
    assert NAMED.refusal_reason(rebound) == "host"
    assert UNNAMED_HOST.refusal_reason(rebound) == "origin"


def test_null_may_be_named_but_its_cookies_never_count() -> None:
    assert NULL.refusal_reason(headers(origin="null")) is None
    assert not NULL.allows_cookies(headers(origin="null"), is_secure=False)


@pytest.mark.parametrize(
    ("site", "counts"), [("same-origin", True), ("none", True), ("same-site", False), ("cross-site", False)]
)
def test_without_an_origin_the_browser_says_whose_request_it_is(site: str, counts: bool) -> None:
    for policy in (ANY, NAMED):
        assert policy.allows_cookies(headers(sec_fetch_site=site), is_secure=False) is counts


@given(st.text(st.characters(max_codepoint=255), max_size=30), st.text(st.characters(max_codepoint=255), max_size=30))
def test_no_header_is_an_error_and_no_other_origin_is_let_in(origin: str, host: str) -> None:
    reason = NAMED.refusal_reason(headers(host, origin))
    is_own = is_same_origin(origin, host)
    assert reason is not None or is_own or origin in ("https://app.example", "http://localhost:3000")
    assert not is_own or origin.partition("://")[2] == host.lower().removesuffix(":80").removesuffix(":443")


def test_answers_say_what_they_depend_on() -> None:
    vary = (b"vary", b"origin")
    named = NAMED.response_headers(headers(origin="https://app.example"))
    assert vary in named
    assert (b"access-control-allow-origin", b"https://app.example") in named
    assert (b"access-control-allow-credentials", b"true") in named
    assert vary in NAMED.response_headers(headers())
    assert vary in NAMED.preflight_headers(headers(origin="https://app.example"))
    assert vary in NAMED.refusal_headers()
    anybody = dict(ANY.response_headers(headers(origin="https://evil.example")))
    assert anybody[b"access-control-allow-origin"] == b"*"
    assert b"access-control-allow-credentials" not in anybody


@pytest.mark.parametrize(
    ("origin", "host", "counts"),
    [
        ("https://relay.example", "relay.example", True),
        ("http://relay.example", "relay.example", False),
        ("http://localhost:8000", "localhost:8000", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", False),
        ("http://localhost:3000", "relay.example", True),  # a named one
    ],
)
def test_a_page_that_came_without_tls_cannot_use_a_secure_cookie(origin: str, host: str, counts: bool) -> None:
    assert NAMED.allows_cookies(headers(host, origin), is_secure=True) is counts
