"""What Redis says of itself."""

import pytest

from relay.broker.server_info import ServerInfo
from relay.core.errors import BrokerRefused


def info(version: str = "7.2.4", mode: str = "standalone", run_id: str = "a", cut: object = 0) -> ServerInfo:
    return ServerInfo.parse(
        f"# Server\r\nredis_version:{version}\r\nredis_mode:{mode}\r\nrun_id:{run_id}\r\n"
        f"# Stats\r\nclient_output_buffer_limit_disconnections:{cut}\r\n"
    )


@pytest.mark.parametrize(
    ("version", "mode", "needed"),
    [("5.0.14", "standalone", "6.2"), ("6.0.20", "standalone", "6.2"), ("6.2.14", "cluster", "7.0")],
)
def test_a_redis_that_is_too_old_is_named_with_the_version_that_is_needed(version: str, mode: str, needed: str) -> None:
    with pytest.raises(BrokerRefused, match=rf"{version}.* too old: .*{needed}"):
        info(version, mode).require_supported()


@pytest.mark.parametrize(
    ("version", "mode"), [("6.2.0", "standalone"), ("7.0.0", "cluster"), ("10.1", "cluster"), ("odd", "standalone")]
)
def test_a_newer_or_unknown_version_is_taken(version: str, mode: str) -> None:
    info(version, mode).require_supported()


def test_a_server_that_says_nothing_is_taken() -> None:
    ServerInfo.parse("").require_supported()
    assert not ServerInfo.parse("no colon\r\nclient_output_buffer_limit_disconnections:x").has_cut_since(info())


def test_a_fork_is_named_by_its_own_version() -> None:
    assert ServerInfo.parse("redis_version:7.2.4\r\nvalkey_version:9.1.2").version_text == "valkey 9.1.2"


@pytest.mark.parametrize("name", ["redis_mode", "server_mode"])
def test_a_cluster_is_known_by_either_name(name: str) -> None:
    assert ServerInfo.parse(f"{name}:cluster\r\n").is_cluster
    assert not ServerInfo.parse(f"{name}:standalone\r\n").is_cluster


def test_a_connection_was_cut_if_the_same_run_has_counted_another_one() -> None:
    assert info(cut=2).has_cut_since(info(cut=1))
    assert not info(cut=1).has_cut_since(info(cut=1))
    assert not info(cut=2, run_id="b").has_cut_since(info(cut=1))
    assert not info(cut=2).has_cut_since(ServerInfo())
