"""The Centrifuge protocol: what its commands ask for, and how they are answered."""

from typing import Any

import msgspec
import pytest

from relay.core.channels import ChannelPatterns
from relay.core.client_channels import ClientChannels, Namespace
from relay.core.closecodes import Close
from relay.core.errors import Unauthenticated, Unverified
from relay.core.grants import Decision, Grant, Verb
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.updates import Position, Update
from relay.protocols.base import (
    Admit,
    End,
    Permit,
    Reply,
    Subscribe,
    Unsubscribe,
)
from relay.protocols.centrifuge_client import GRACE
from tests.protocols.centrifuge_client import AT_7, EXPIRED, INVALID, JSON, NOW, Client, connected, token, update


def test_connect_is_answered_with_what_clients_need() -> None:
    reply = Client().connect(token="t", name="js", unknown=1)
    client = reply["connect"].pop("client")
    assert len(client) == 36
    assert reply == {"id": 1, "connect": {"version": "test", "subs": {}, "ping": 25, "pong": True}}


def test_commands_of_one_message_come_after_each_other() -> None:
    client = Client()
    first, second = client.say({"connect": {}, "id": 1}, {"subscribe": {"channel": "task:t", "flag": 1}, "id": 2})
    assert (first["id"], second["id"]) == (1, 2)
    assert second["subscribe"] == {"recoverable": True, "positioned": True, "epoch": "e", "offset": 7}


@pytest.mark.parametrize(
    "message",
    [
        "",
        "\n",
        "hello",
        "[]",
        "{}",
        '{"id":1}',
        '{"id":1,"ping":{}}',
        '{"id":1,"subscribe":{"channel":"task:t"}}',
        '{"id":-1,"subscribe":{"channel":"task:t"}}',
        '{"id":1,"connect":5}',
        "{}\n\n{}",
        "[" * 100_000,
    ],
)
def test_what_is_no_connect_ends_a_new_connection(message: str) -> None:
    client = Client()
    client.run(client.protocol.receive(message))
    assert (client.closed, client.sent) == (Close.BAD_REQUEST, [])


def test_a_second_connect_ends_the_connection_and_nothing_behind_it_is_done() -> None:
    client = connected()
    assert client.say({"id": 2, "connect": {}}, {"id": 3, "subscribe": {"channel": "task:t"}}) == []
    assert client.closed is Close.BAD_REQUEST


@pytest.mark.parametrize(
    ("grant", "request_token", "code", "close"),
    [
        (EXPIRED, "t", 109, None),
        (Unverified("redis is away"), "t", 100, None),
        (INVALID, "t", None, Close.INVALID_TOKEN),
        (Unauthenticated("unauthenticated", "", Close.UNAUTHENTICATED), "", None, Close.BAD_REQUEST),
        (token(channel="task:t"), "t", None, Close.INVALID_TOKEN),
    ],
)
def test_tokens_that_do_not_hold(grant: Any, request_token: str, code: int | None, close: Close | None) -> None:
    client = Client(grant=grant)
    sent = client.say({"id": 1, "connect": {"token": request_token}}, {"id": 2, "subscribe": {"channel": "task:t"}})
    assert [reply["error"]["code"] for reply in sent] == ([] if code is None else [code])
    assert client.closed is close
    assert not any(isinstance(command, Admit) for command in client.commands)


def test_a_token_gives_its_channels_with_recovery_in_the_answer_to_connect() -> None:
    client = Client(grant=token(sub="u", exp=NOW + 60, channels=["task:t", "general", "nowhere:1"]))
    client.result = SubscribeResult(AT_7, None, [update(6), update(7)])
    reply = client.connect(token="t", subs={"task:t": {"recover": True, "epoch": "e", "offset": 5}})["connect"]
    assert (reply["expires"], reply["ttl"]) == (True, 60)
    assert reply["subs"]["task:t"] == {
        "recoverable": True,
        "positioned": True,
        "epoch": "e",
        "offset": 5,
        "was_recovering": True,
        "recovered": True,
        "publications": [{"data": {"n": 6}, "offset": 6}, {"data": {"n": 7}, "offset": 7}],
    }
    assert set(reply["subs"]) == {"task:t", "general"}
    (admitted,) = [command.grant for command in client.commands if isinstance(command, Admit)]
    assert admitted.expires_at == NOW + 60 + GRACE
    assert admitted.decide(Verb.WATCH, "task:t") is Decision.ALLOWED
    assert admitted.decide(Verb.WATCH, "task:other") is Decision.DENIED


def test_what_was_missed_is_in_the_answer() -> None:
    client = connected()
    client.result = SubscribeResult(AT_7, None, [update(6), update(7)])
    (command,) = [
        command
        for command in client.protocol.receive(
            '{"id":2,"subscribe":{"channel":"task:t","recover":true,"epoch":"e","offset":5}}'
        )
        if isinstance(command, Subscribe)
    ]
    assert (command.channel, command.since, command.updates_in_answer) == ("task:t", Position("e", 5), True)
    reply = client.follow("task:t", recover=True, epoch="e", offset=5)["subscribe"]
    assert [each["offset"] for each in reply["publications"]] == [6, 7]
    assert (reply["was_recovering"], reply["recovered"], reply["offset"]) == (True, True, 5)


@pytest.mark.parametrize("position", [{"epoch": "_"}, {"epoch": "f", "offset": 3}, {"offset": 3}, {"offset": 2**63}])
def test_what_cannot_be_recovered_is_the_state_instead(position: dict[str, Any]) -> None:
    client = connected()
    client.result = SubscribeResult(AT_7, None, [update(7)])
    reply = client.follow("task:t", recover=True, **position)["subscribe"]
    assert (reply["was_recovering"], "recovered" in reply, reply["offset"]) == (True, False, 7)
    assert reply["publications"] == [{"data": {"n": 7}, "offset": 7}]


def test_a_client_may_refuse_what_cannot_be_recovered() -> None:
    client = connected()
    reply = client.follow("task:t", recover=True, epoch="f", offset=3, flag=2)
    assert reply["error"]["code"] == 112
    assert client.commands[-1] == Unsubscribe("task:t", b"")
    assert "subscribe" in client.follow("task:t")


def test_the_cache_gives_the_state_to_those_that_recover() -> None:
    client = connected(Namespace("task", force_recovery_mode="cache"))
    client.result = SubscribeResult(AT_7, None, [update(7)])
    reply = client.follow("task:t", recover=True)["subscribe"]
    assert (reply["recovered"], reply["offset"], len(reply["publications"])) == (True, 7, 1)
    client.say({"id": 3, "unsubscribe": {"channel": "task:t"}})
    reply = client.follow("task:t", recover=True, epoch="e", offset=7)["subscribe"]
    assert (reply["recovered"], "publications" in reply) == (True, False)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": "nowhere:1"}, 102),
        ({"channel": "task:" + "x" * 256}, 107),
        ({"channel": "task:"}, 107),
        ({"channel": "task:t", "tf": {"op": ""}}, 107),
        ({"channel": "task:t", "type": 1}, 108),
        ({"channel": "$news:t"}, 103),
    ],
)
def test_channels_that_cannot_be_followed(request_: dict[str, Any], code: int) -> None:
    client = connected(Namespace("news"))
    (reply,) = client.say({"id": 2, "subscribe": request_})
    assert reply["error"]["code"] == code


@pytest.mark.parametrize(
    ("code", "number"), [("forbidden", 103), ("too_many_subscriptions", 106), ("unavailable", 100)]
)
def test_refusals_of_the_session_are_error_replies(code: str, number: int) -> None:
    client = connected()
    client.refuses = code, "why"
    assert client.follow("task:t")["error"]["code"] == number
    client.refuses = None
    assert "subscribe" in client.follow("task:t")


def test_who_cannot_recover_subscribes_again_without_a_position() -> None:
    """After an unsubscribe 2500, clients recover only what they were told to be recoverable."""
    client = connected(Namespace("task", force_recovery=False))
    for _ in range(2):
        assert client.follow("task:t", positioned=True)["subscribe"]["positioned"]
    assert client.follow("task:t", recoverable=True)["subscribe"]["recoverable"]
    assert client.follow("task:t", recoverable=True)["error"]["code"] == 105
    assert client.follow("task:t", recover=True, recoverable=True, offset=7, epoch="e")["subscribe"]["recovered"]


def test_a_channel_is_followed_once_but_again_to_recover() -> None:
    client = connected()
    client.follow("task:t")
    assert client.follow("task:t")["error"]["code"] == 105
    assert "recovered" in client.follow("task:t", recover=True, epoch="e", offset=7)["subscribe"]
    assert client.say({"id": 3, "unsubscribe": {"channel": "task:t"}}) == [{"id": 3, "unsubscribe": {}}]
    assert client.say({"id": 4, "unsubscribe": {"channel": "task:t"}}) == [{"id": 4, "unsubscribe": {}}]
    assert sum(isinstance(command, Unsubscribe) for command in client.commands) == 1


def test_subscriptions_that_end_are_pushed() -> None:
    client = connected()
    client.follow("task:t")
    for code, number in (("forbidden", 2000), ("subscription_expired", 2501)):
        push = msgspec.json.decode(client.protocol.refuse(code, "why", "task:t").payload)
        assert push["push"]["channel"] == "task:t"
        assert push["push"]["unsubscribe"]["code"] == number
        assert push["push"]["unsubscribe"]["reason"]
    assert "subscribe" in client.follow("task:t")


def test_a_token_may_be_for_one_subscription() -> None:
    client = connected(grant=token(sub="u"))
    client.grant = token(sub="u", channel="task:t", exp=NOW + 5, data={"a": 1})
    reply = client.follow("task:t", token="t")["subscribe"]
    assert (reply["expires"], reply["ttl"], reply["data"]) == (True, 5, {"a": 1})
    (command,) = [command for command in client.commands if isinstance(command, Subscribe)]
    assert command.grant is not None
    assert command.grant.expires_at == NOW + 5 + GRACE
    client.grant = token(sub="u", channel="task:t", exp=NOW + 50)
    (reply,) = client.say({"id": 3, "sub_refresh": {"channel": "task:t", "token": "t"}})
    assert reply == {"id": 3, "sub_refresh": {"expires": True, "ttl": 50}}
    assert isinstance(client.commands[-2], Permit)


@pytest.mark.parametrize(
    ("grant", "code", "close"),
    [
        (token(sub="u", channel="task:other"), None, Close.INVALID_TOKEN),
        (token(sub="v", channel="task:t"), None, Close.INVALID_TOKEN),
        (token(sub="u", channel="task:t", client="another"), None, Close.INVALID_TOKEN),
        (token(sub="u"), None, Close.INVALID_TOKEN),
        (EXPIRED, 109, None),
        (INVALID, 103, None),
        (Unverified(""), 100, None),
    ],
)
def test_tokens_of_subscriptions_that_do_not_hold(grant: Any, code: int | None, close: Close | None) -> None:
    client = connected(grant=token(sub="u"))
    client.grant = grant
    sent = client.say({"id": 2, "subscribe": {"channel": "task:t", "token": "t"}})
    assert [reply["error"]["code"] for reply in sent] == ([] if code is None else [code])
    assert client.closed is close


@pytest.mark.parametrize(
    ("grant", "close"),
    [
        (token(sub="u", exp=NOW + 9), None),
        (token(sub="v"), Close.INVALID_TOKEN),
        (token(sub="u", channels=["general"]), Close.INSUFFICIENT_STATE),
        (token(sub="u", channel="task:t"), Close.INVALID_TOKEN),
        (EXPIRED, Close.TOKEN_EXPIRED),
        (INVALID, Close.INVALID_TOKEN),
    ],
)
def test_refresh(grant: Any, close: Close | None) -> None:
    client = connected(grant=token(sub="u"))
    client.grant = grant
    sent = client.say({"id": 2, "refresh": {"token": "t"}})
    assert client.closed is close
    assert sent == ([{"id": 2, "refresh": {"expires": True, "ttl": 9}}] if close is None else [])


def test_namespaces_allow_what_they_say() -> None:
    channels = ClientChannels(
        ChannelPatterns(),
        [Namespace("news", allow_subscribe_for_client=True), Namespace("wall", allow_subscribe_for_anonymous=True)],
    )
    user, nobody = channels.widened(Grant(subject="u")), channels.widened(Grant())
    assert user.decide(Verb.WATCH, "news:1") is Decision.ALLOWED
    assert user.decide(Verb.WATCH, "newspaper") is Decision.DENIED
    assert user.decide(Verb.PUBLISH, "news:1") is Decision.DENIED
    assert nobody.decide(Verb.WATCH, "news:1") is Decision.DENIED
    assert nobody.decide(Verb.WATCH, "wall:1") is Decision.ALLOWED
    assert nobody.decide(Verb.WATCH, "task:1") is Decision.DENIED
    unnamed = Namespace(allow_subscribe_for_client=True, allow_publish_for_client=True)
    user = ClientChannels(ChannelPatterns(), [unnamed]).widened(Grant(subject="u"))
    for verb in (Verb.WATCH, Verb.PUBLISH):
        assert [user.decide(verb, channel) for channel in ("general", "lobby")] == [Decision.ALLOWED] * 2
        assert [user.decide(verb, channel) for channel in ("a:b", "task:1")] == [Decision.DENIED] * 2


def test_users_in_a_name_may_follow_it() -> None:
    namespace = Namespace("dialog", allow_user_limited_channels=True)
    for user, allowed in (("7", True), ("8", True), ("78", False), (None, False)):
        client = connected(namespace, grant=Grant(subject=user))
        client.follow("dialog:x#7,8")
        (command,) = [command for command in client.commands if isinstance(command, Subscribe)]
        assert (command.grant is not None) is allowed


def test_a_ping_is_answered_once() -> None:
    client = Client()
    assert client.protocol.heartbeat() is None
    client.connect()
    assert client.protocol.heartbeat() == Reply(b"{}")
    assert client.protocol.heartbeat() is None
    assert client.protocol.check_pong() == End(Close.NO_PONG)
    client.say({})
    assert client.closed is None
    assert client.protocol.check_pong() is None
    assert client.protocol.heartbeat() == Reply(b"{}")
    client.say({}, {})
    assert client.closed is Close.BAD_REQUEST


def test_what_is_not_offered_says_so() -> None:
    client = connected()
    assert client.say({"id": 2, "rpc": {"method": "x"}})[0]["error"]["code"] == 108
    client.say({"send": {"data": 1}})
    assert client.closed is Close.NOT_AVAILABLE


def test_every_close_has_a_reason_since_clients_reconnect_without() -> None:
    protocol = Client().protocol
    for close in Close:
        code, reason = protocol.farewell(close)[:2]
        assert reason or code in (1000, 1006)
        if code >= 3000 and close is not Close.UNAUTHENTICATED:  # which has not connected
            assert close.reconnect == (code < 3500 or 4000 <= code < 4500), close


def test_updates_are_pushes_in_one_line() -> None:
    own, given = JSON.encodings
    spread = Update("task:t", "task_update", b'{"a":\n1}\r\n', 0.0, AT_7)
    for encoding in (own, given):
        payload = encoding.encode(spread)
        assert b"\n" not in payload
        assert msgspec.json.decode(payload) == {"push": {"channel": "task:t", "pub": {"data": {"a": 1}, "offset": 7}}}
    without = msgspec.json.decode(own.encode(replace_position(spread)))
    assert "offset" not in without["push"]["pub"]
    (push,) = own.reset("task:t", Snapshot(AT_7, None, None))
    assert msgspec.json.decode(push)["push"]["unsubscribe"]["code"] == 2500
    (push,) = given.reset("task:t", Snapshot(AT_7, None, None))
    assert msgspec.json.decode(push)["push"]["disconnect"]["code"] == 3010


def replace_position(update: Update) -> Update:
    return msgspec.structs.replace(update, position=None)
