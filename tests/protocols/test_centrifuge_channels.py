"""The Centrifuge protocol: presence, histories, publishing, orders, and whatever else clients send."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.client_channels import Namespace
from relay.core.client_orders import DisconnectOrder, RefreshOrder, SubscribeOrder, UnsubscribeOrder
from relay.core.closecodes import Close
from relay.core.errors import BadMessage, BrokerUnavailable, Forbidden
from relay.core.history_range import MAX_UPDATES, HistoryPart, HistoryRange
from relay.core.recovery import SubscribeResult
from relay.core.updates import Update
from relay.protocols.base import (
    Join,
)
from tests.protocols.centrifuge_client import AT_7, JSON, NOW, Client, connected, token

NEWS = Namespace("news", presence=True, join_leave=True, allow_publish_for_client=True)


def test_presence_is_told_where_it_is_kept() -> None:
    client = connected(NEWS)
    (reply,) = client.say({"id": 2, "presence": {"channel": "news:1"}})
    assert reply == {"id": 2, "presence": {"presence": {"a": {"user": "u"}, "b": {"user": "u"}}}}
    (reply,) = client.say({"id": 3, "presence_stats": {"channel": "news:1"}})
    assert reply == {"id": 3, "presence_stats": {"num_clients": 2, "num_users": 1}}
    for channel, code in (("task:t", 108), ("nowhere:1", 102)):
        (reply,) = client.say({"id": 4, "presence": {"channel": channel}})
        assert reply["error"]["code"] == code
    for error, code in ((Forbidden(), 103), (BrokerUnavailable("away"), 100)):
        client.present = error
        (reply,) = client.say({"id": 5, "presence": {"channel": "news:1"}})
        assert reply["error"]["code"] == code


def test_clients_are_present_in_channels_that_keep_it() -> None:
    grant = token(sub="u", info={"name": "U"}, subs={"news:2": {"info": {"x": 1}}}, relay={"watch": {"all": True}})
    client = Client(NEWS, grant=grant)
    client.connect(token="t")
    client.follow("task:t")
    client.follow("news:1", join_leave=True)
    given, asked = [command for command in client.commands if isinstance(command, Join)]
    own = {"user": "u", "client": client.id, "conn_info": {"name": "U"}}
    assert (client.user, given.channel, given.encoding) == ("u", "news:2", None)
    assert msgspec.json.decode(given.member.info) == own | {"chan_info": {"x": 1}}
    assert (asked.channel, asked.encoding, asked.member.announced) == ("news:1", JSON.encodings.own, True)
    assert msgspec.json.decode(asked.member.info) == own
    event = Update("members:news:1", "join", asked.member.info, 0.0)
    assert msgspec.json.decode(JSON.encodings.own.encode(event)) == {
        "push": {"channel": "news:1", "join": {"info": own}}
    }


def test_history() -> None:
    client = connected()
    (reply,) = client.say({"id": 2, "history": {"channel": "task:t", "limit": -1, "reverse": True}})
    assert client.wanted == HistoryRange(MAX_UPDATES, None, True)
    assert (reply["history"]["epoch"], reply["history"]["offset"]) == ("e", 7)
    assert [each["offset"] for each in reply["history"]["publications"]] == [6, 7]
    client.part = HistoryPart(None, [])
    (reply,) = client.say({"id": 3, "history": {"channel": "task:t"}})
    assert reply["history"] == {"publications": [], "epoch": "", "offset": 0}
    assert client.wanted == HistoryRange(0, None, False)


@pytest.mark.parametrize(
    ("since", "reverse", "code"),
    [({"epoch": "f", "offset": 1}, False, 112), ({"offset": 0}, True, 107), ({"offset": -1}, False, 107)],
)
def test_histories_that_cannot_be_told(since: dict[str, Any], reverse: bool, code: int) -> None:
    client = connected()
    (reply,) = client.say({"id": 2, "history": {"channel": "task:t", "limit": 5, "since": since, "reverse": reverse}})
    assert reply["error"]["code"] == code


def test_publishing_is_for_namespaces_that_allow_it() -> None:
    client = connected(NEWS)
    assert client.say({"id": 2, "publish": {"channel": "news:1", "data": {"a": 1}}}) == [{"id": 2, "publish": {}}]
    for channel, code in (("task:t", 103), ("nowhere:1", 102)):
        (reply,) = client.say({"id": 3, "publish": {"channel": channel, "data": {}}})
        assert reply["error"]["code"] == code
    assert client.say({"id": 4, "publish": {"channel": "news:1"}})[0]["error"]["code"] == 107
    client.publish_error = BadMessage("wrong_type", "")
    assert client.say({"id": 5, "publish": {"channel": "news:1", "data": 1}})[0]["error"]["code"] == 107


def test_orders_of_the_servers_api() -> None:
    client = connected(NEWS, grant=token(sub="u"))
    client.result = SubscribeResult(AT_7, None, [])
    client.run(client.protocol.on_order(SubscribeOrder("news:1", data='{"a":1}', expires_at=NOW)))
    push = {"recoverable": True, "positioned": True, "epoch": "e", "offset": 7, "data": {"a": 1}}
    assert client.sent.pop() == {"push": {"channel": "news:1", "subscribe": push}}
    assert client.follow("news:1")["error"]["code"] == 105
    client.run(client.protocol.on_order(UnsubscribeOrder("news:1")))
    assert client.sent.pop()["push"]["unsubscribe"]["code"] == 2000
    client.run(client.protocol.on_order(RefreshOrder(expires_at=NOW + 30)))
    assert client.sent.pop() == {"push": {"refresh": {"expires": True, "ttl": 30}}}
    client.run(client.protocol.on_order(DisconnectOrder(4000, "because")))
    assert client.closed is not None
    assert client.protocol.farewell(client.closed)[:2] == (4000, "because")


def test_orders_may_end_a_connection_that_has_expired() -> None:
    client = connected()
    client.run(client.protocol.on_order(RefreshOrder(expired=True)))
    assert client.closed is Close.TOKEN_EXPIRED
    assert list(Client().protocol.on_order(RefreshOrder(expired=True))) == []


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["channel", "token", "x"]), inner),
    max_leaves=5,
)
_METHODS = ["connect", "subscribe", "unsubscribe", "publish", "presence", "history", "refresh", "sub_refresh", "send"]


@given(st.lists(st.dictionaries(st.sampled_from(["id", *_METHODS]), _VALUES, max_size=2), max_size=4), st.binary())
@settings(max_examples=60, deadline=None)
def test_whatever_comes_is_answered_or_ends_the_connection(commands: list[dict[str, Any]], noise: bytes) -> None:
    client = connected()
    client.say(*commands)
    client.run(client.protocol.receive(noise.decode("utf-8", "replace")))
    assert client.closed is not None  # the noise ends it, where the commands did not
