"""Redis URLs: each form is understood, and what is wrong is said without the password."""

from typing import Any

import pytest
from relay_wire.redis_urls import parse


@pytest.mark.parametrize(
    ("url", "kind", "nodes", "name", "options", "sentinel_options"),
    [
        ("redis://h:1/2", "single", (), "", {"host": "h", "port": 1, "db": 2}, {}),
        ("rediss://user:pw@h", "single", (), "", {"host": "h", "username": "user", "password": "pw"}, {}),
        ("unix:///run/redis.sock?db=1", "single", (), "", {"path": "/run/redis.sock", "db": 1}, {}),
        ("redis+sentinel://a,b:7/mine/3", "sentinel", (("a", 26379), ("b", 7)), "mine", {"db": 3}, {}),
        (
            "redis+sentinel://u:p%40@a/mine?sentinel_username=s&sentinel_password=t",
            "sentinel",
            (("a", 26379),),
            "mine",
            {"username": "u", "password": "p@"},
            {"username": "s", "password": "t"},
        ),
        ("rediss+sentinel://a/mine", "sentinel", (("a", 26379),), "mine", {"ssl": True}, {"ssl": True}),
        ("redis+cluster://:p@a,[::1]:7/0", "cluster", (("a", 6379), ("::1", 7)), "", {"password": "p"}, {}),
        ("rediss+cluster://a", "cluster", (("a", 6379),), "", {"ssl": True}, {}),
    ],
)
def test_each_form(
    url: str,
    kind: str,
    nodes: tuple[tuple[str, int], ...],
    name: str,
    options: dict[str, Any],
    sentinel_options: dict[str, Any],
) -> None:
    target = parse(url)
    assert (target.kind, target.nodes, target.name) == (kind, nodes, name)
    given = {name: value for name, value in target.options.items() if name != "connection_class"}
    assert (given, target.sentinel_options) == (options, sentinel_options)
    assert target.is_sharded == (kind == "cluster")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://:secret@h", "must begin with one of redis://"),
        ("redis+sentinel://:secret@a", "master's name"),
        ("redis+sentinel://:secret@/mine", "at least one host:port"),
        ("redis+cluster://:secret@a/1", "only database 0"),
        ("redis+cluster://:secret@a:x", "not of the form host:port"),
        ("redis+cluster://:secret@a:99999", "not of the form host:port"),
        ("redis+cluster://:secret@:7", "not of the form host:port"),
        ("redis+cluster://:secret@a,[::1", "not of the form host:port"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse(url)
    assert "secret" not in str(caught.value)


def test_a_target_can_be_shown_without_the_password() -> None:
    for url in (
        "redis://:secret@h",
        "redis+sentinel://:secret@a/mine?sentinel_password=secret",
        "redis+cluster://:secret@a",
    ):
        assert "secret" not in repr(parse(url))
