"""Profiles: what is open by default is said, and a relay for the public does not start with it."""

import re
from pathlib import Path

import pytest

from relay.config import RedisSettings, Settings
from relay.core.errors import ConfigError
from relay.profile import is_private, open_notice, require_safe, unsafe_defaults
from tests.commands import run
from tests.conftest import StartRelay
from tests.harness import Kind
from tests.ports import free_port
from tests.test_cli import SECRET

SAFE = {
    "jwt_secret": SECRET,
    "allowed_origins": "https://app.example",
    "allowed_hosts": "relay.example",
    "max_clients_per_address": "100",
    "admin_bind": "127.0.0.1:9100",
}
REDIS = RedisSettings(url="redis://redis.example")  # type: ignore[arg-type, call-arg]


def settings(**values: str) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type, call-arg]


def test_every_unsafe_default_is_named_at_once_with_what_to_set() -> None:
    no_redis = RedisSettings(_env_file=None)  # type: ignore[call-arg]
    with pytest.raises(ConfigError) as caught:
        require_safe(settings(profile="production"), no_redis)
    named = re.findall(r"^  (\w+): .*\. (?:Set it|Choose)", str(caught.value), re.MULTILINE)
    expected = [f"RELAY_{name.upper()}" for name in SAFE]
    assert named == [*expected, "REDIS_URL"]


@pytest.mark.parametrize("missing", SAFE)
def test_one_unsafe_default_is_enough_to_refuse(missing: str) -> None:
    values = {name: value for name, value in SAFE.items() if name != missing}
    with pytest.raises(ConfigError, match=f"RELAY_{missing.upper()}: "):
        require_safe(settings(profile="production", **values), REDIS)
    require_safe(settings(**values), REDIS)  # development


def test_what_is_set_is_a_choice() -> None:
    require_safe(settings(profile="production", **SAFE), REDIS)
    chosen = SAFE | {"allowed_origins": "*", "max_clients_per_address": "0"}
    assert unsafe_defaults(settings(**chosen), REDIS) == []
    for grants in ({"anonymous": "watch:all"}, {"authorize_url": "https://backend.example/grant"}):
        assert unsafe_defaults(settings(**{**chosen, **grants}), REDIS) == []


@pytest.mark.parametrize(
    ("addresses", "private"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.1", "::1"], True),
        (["127.0.0.1", "10.0.0.1"], False),
        (["0.0.0.0"], False),
        ([], False),
    ],
)
def test_an_open_relay_says_so_and_warns_where_others_reach_it(addresses: list[str], private: bool) -> None:
    assert is_private(addresses) is private
    notice = open_notice(settings(), addresses)
    assert notice is not None
    assert notice[0] == ("info" if private else "warning")
    assert private or "RELAY_ANONYMOUS" in notice[1]
    assert open_notice(settings(jwt_secret=SECRET), addresses) is None


@pytest.mark.parametrize(
    ("kind", "arguments", "who"),
    [
        ("serve", (), "everyone on this machine sees every task"),
        ("hypercorn", ("-b", "0.0.0.0:{port}"), "everyone who reaches this relay sees every task"),
        # It opens its socket only after the start of the app.
        ("uvicorn", (), "everyone who reaches this relay sees every task"),
    ],
)
def test_a_relay_says_at_its_start_who_can_see_what(
    start_relay: StartRelay, kind: Kind, arguments: tuple[str, ...], who: str
) -> None:
    port = free_port()
    logged = start_relay(kind, arguments=tuple(each.format(port=port) for each in arguments)).logged()
    assert who in logged
    assert ("RELAY_JWT_SECRET" in logged) == (kind != "serve")


def test_relay_serve_and_any_server_refuse_what_is_unsafe(start_relay: StartRelay) -> None:
    refused = run("serve", RELAY_PROFILE="production")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 7
    relay = start_relay("hypercorn", wait=False, profile="production")
    relay.wait()
    assert "RELAY_ALLOWED_HOSTS: " in relay.logged()


def test_the_settings_of_a_safe_relay_are_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "grants.md").read_text()
    for name in SAFE:
        assert f"RELAY_{name.upper()}" in page
