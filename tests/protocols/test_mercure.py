"""Mercure's forms and events, without a socket or Redis."""

from time import monotonic
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.batches import Batch, Format, Framing
from relay.core.channels import ChannelPatterns
from relay.core.errors import BadMessage
from relay.core.grants import NOTHING, Grant, Scope, Verb
from relay.core.hub import Hub
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.topics import TOPICS
from relay.core.updates import Position, Update
from relay.protocols.base import Subscribe
from relay.protocols.mercure import MercureProtocol, event, read_selectors, topics_of
from relay.protocols.mercure_forms import TOPIC_UPDATE, TopicUpdate, id_of, position_of, read_form, stored_form

NO_CHANNELS = ChannelPatterns(())
AT = Position("5d8b85661e74", 7)


def update(*topics: str, private: bool = False, event_id: str | None = None, data: str = "x") -> Update:
    stored = stored_form(TopicUpdate(list(topics), data, private, event_id))
    return Update(TOPICS, TOPIC_UPDATE, stored, monotonic(), AT)


def subscription(*selectors: str, grant: Grant = NOTHING, last_event_id: str | None = None) -> Subscribe:
    wanted = read_selectors([("topic", each) for each in selectors], NO_CHANNELS, 100)
    *_, command = MercureProtocol(wanted, grant, last_event_id, AT).open()
    assert isinstance(command, Subscribe)
    return command


def watching(*selectors: str) -> Grant:
    return Grant(MappingProxyType({Verb.WATCH: Scope(topics=frozenset(selectors))}))


def test_a_form_is_read() -> None:
    form = read_form(b"topic=a&topic=https%3A%2F%2Fb&data=c%0Ad&private&id=e&type=f&retry=5&other=g")
    assert form == TopicUpdate(["a", "https://b"], "c\nd", True, "e", "f", 5)


@pytest.mark.parametrize(
    "form",
    [
        "",
        "data=x",
        "topic=",
        "topic=*",
        "topic=a%00",
        "topic=a%E2%80%8B",
        "topic=%ff",
        "topic=é",
        "topic=/.well-known/mercure/subscriptions",
        "topic=https://x/.well-known/%256Dercure/../mercure/a",
        "topic=https://x/a/../.well-known/%6Dercure/s",
        "topic=a&id=%23b",
        "topic=a&id=earliest",
        "topic=a&id=b%0A",
        "topic=a&type=mercure",
        "topic=a&type=b%0Ac",
        "topic=a&retry=-1",
        "topic=a&retry=x",
        "topic=" + "a" * 1025,
        "&".join(f"topic={number}" for number in range(33)),
    ],
)
def test_a_malformed_form_is_refused(form: str) -> None:
    with pytest.raises(BadMessage):
        read_form(form.encode())


@given(st.binary(max_size=60) | st.text("topic=&%adr1id", max_size=60).map(str.encode))
def test_any_body_is_a_form_or_is_refused(body: bytes) -> None:
    try:
        form = read_form(body)
    except BadMessage:
        return
    stored = Update(TOPICS, TOPIC_UPDATE, stored_form(form), 0.0, AT)
    assert topics_of(stored) == form.topics


@given(st.text())
def test_data_is_what_an_event_source_reads(data: str) -> None:
    lines = event(data, "i").decode().removesuffix("\n\n").split("\n")
    assert lines[0] == "id: i"
    assert "\n".join(line.removeprefix("data: ") for line in lines[1:]) == data.replace("\r\n", "\n").replace(
        "\r", "\n"
    )


@given(st.text("0123456789abcdef", min_size=1, max_size=12), st.integers(0, 2**50))
def test_an_id_is_a_position(epoch: str, offset: int) -> None:
    assert position_of(id_of(Position(epoch, offset))) == Position(epoch, offset)


@pytest.mark.parametrize("event_id", ["", "#", "#a", "a:1", "#a:-1", "#a:b", "earliest", "#" + "a" * 65 + ":1"])
def test_another_id_is_none(event_id: str) -> None:
    assert position_of(event_id) is None


def test_clients_get_what_they_selected() -> None:
    encoding = subscription("a", "https://x/{id}").encoding
    assert encoding.encode(update("a")) == b"id: #5d8b85661e74:7\ndata: x\n\n"
    assert encoding.encode(update("b", "https://x/7", event_id="i")) == b"id: i\ndata: x\n\n"
    assert encoding.encode(update("b", "https://x/7/8")) == b""


def test_private_updates_need_a_grant_for_one_of_their_topics() -> None:
    private = update("a", "b", private=True)
    assert subscription("a").encoding.encode(private) == b""
    assert subscription("a", grant=watching("c")).encoding.encode(private) == b""
    assert subscription("a", grant=watching("b")).encoding.encode(private)
    assert subscription("a", grant=watching("*")).encoding.encode(private)
    assert subscription("c", grant=watching("*")).encoding.encode(private) == b""


def test_clients_that_want_the_same_share_an_encoding() -> None:
    assert subscription("a", "b").encoding is subscription("b", "a").encoding
    assert subscription("a").encoding is not subscription("a", grant=watching("a")).encoding


def test_a_newcomer_gets_an_id_to_resume_from() -> None:
    command = subscription("a")
    assert command.since == AT
    assert list(command.answer(SubscribeResult(AT, True, []))) == [b"id: #5d8b85661e74:7\n\n"]


def test_a_client_that_cannot_resume_gets_a_reset() -> None:
    (payload,) = subscription("a", last_event_id="gone").answer(SubscribeResult(AT, False, []))
    assert payload == b'event: reset\nid: #5d8b85661e74:7\ndata: {"channel":"topics"}\n\n'


def test_a_client_that_follows_a_task_too_gets_all_positions() -> None:
    wanted = read_selectors([("topic", "a"), ("topic", "task:t")], NO_CHANNELS, 100)
    task, topics = MercureProtocol(wanted, NOTHING, None, AT).open()
    assert isinstance(task, Subscribe)
    assert isinstance(topics, Subscribe)
    assert (task.channel, topics.channel) == ("task:t", TOPICS)
    first = task.encoding.encode(Update("task:t", "task_update", b'{"n":1}', 0.0, Position("5d8b85661e74", 3)))
    assert b'data: {"type":"task_update","task_id":"t","data":{"n":1}}\n\n' in first
    second = topics.encoding.encode(update("a", event_id="i"))
    last_id = second.split(b"\n")[0].removeprefix(b"id: ").decode()
    resumed, _ = MercureProtocol(wanted, NOTHING, last_id, AT).open()
    assert isinstance(resumed, Subscribe)
    assert resumed.since == Position("5d8b85661e74", 3)


@pytest.mark.parametrize(
    "query",
    [
        [],
        [("other", "a")],
        [("topic", "")],
        [("topic", "a\n")],
        [("match_urlpattern", "/:a")],
        [("Match", "a")],
        [("topic", str(number)) for number in range(101)],
        [("topic", f"{{x}}{number}") for number in range(33)],
    ],
)
def test_a_malformed_query_is_refused(query: list[tuple[str, str]]) -> None:
    with pytest.raises(BadMessage):
        read_selectors(query, NO_CHANNELS, 100)


class Client:
    """A subscriber that keeps what it is offered."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def offer(self, batch: Batch) -> None:
        self.batches.append(batch)


def test_an_update_is_encoded_once_for_a_thousand_subscribers_and_costs_others_nothing() -> None:
    hub = Hub(on_pending=lambda: None, keys_of={TOPICS: topics_of})
    framing = Framing(bytes, b"".join)
    selections = {name: Format(subscription(name).encoding, framing) for name in ("a", "b", "https://x/{id}", "*")}
    clients = {name: [Client() for _ in range(1000)] for name in selections}
    for name, format in selections.items():
        for client in clients[name]:
            hub.subscribe(client, TOPICS, format)
    hub.catch_up(TOPICS, Snapshot(Position(AT.epoch, 6), None, None))
    hub.on_publication(update("a"))
    assert len(hub._dirty) == 3  # the groups of "b" are not looked at
    hub.flush()
    for name, count in {"a": 1, "b": 0, "https://x/{id}": 0, "*": 1}.items():
        assert {len(client.batches) for client in clients[name]} == {count}
    first = clients["a"][0].batches[0]
    assert first.chunk == b"id: #5d8b85661e74:7\ndata: x\n\n"
    assert all(client.batches[0] is first for client in clients["a"])
    for name, format in selections.items():
        for client in clients[name]:
            hub.unsubscribe(client, TOPICS, format)
    assert not hub.channels
