"""A subscriber against a model of a relay, for every interleaving of publishing, requests, deliveries and lost connections."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from relay_client.subscriber import Update
from relay_client.subscriber.subscriptions import Subscriptions

from tests.client.subscriber.test_subscriptions import PONG, Message, at, receive

CHANNELS = ("general", "task:a", "task:b")


class ModelRelay:
    """What a relay with its Redis does, as far as one client can see. Update number n of an epoch sets n, and one of three
    fields."""

    HISTORY = 4

    def __init__(self) -> None:
        self.epoch = 0
        self.published: dict[str, list[Message]] = {name: [] for name in CHANNELS}
        self.states: dict[tuple[str, str, int], Message] = {(name, "e0", 0): {} for name in CHANNELS}
        self.wire: list[Message] = []
        self.followed: set[str] = {"general"}
        self.positioned: set[str] = set()

    def _top(self, name: str) -> Message:
        return at(len(self.published[name]), f"e{self.epoch}")

    def _send(self, name: str, data: Message, position: Message | None) -> None:
        head: Message = {"type": "general_update"}
        if name != "general":
            head = {"type": "task_update", "task_id": name[5:]}
        self.wire.append({**head, "data": data, **({"position": position} if position else {})})

    def _send_subscribed(self, name: str, recovered: bool | None) -> None:
        """The answer, and the state where there is one."""
        fields = {"channel": name} if name == "general" else {"task_id": name[5:]}
        answer: Message = {"type": "subscribed", **fields, "position": self._top(name)}
        if recovered is not None:
            answer["recovered"] = recovered
        state = self.states[(name, f"e{self.epoch}", len(self.published[name]))]
        answer["state"] = not recovered and name != "general" and bool(state)
        self.wire.append(answer)
        if answer["state"]:
            self._send(name, state, self._top(name))

    def publish(self, name: str) -> None:
        published = self.published[name]
        before = self.states[(name, f"e{self.epoch}", len(published))]
        n = len(published) + 1
        published.append({"n": n, f"f{n % 3}": f"{self.epoch}.{n}"})
        self.states[(name, f"e{self.epoch}", n)] = before | published[-1]
        if name in self.followed:
            self._send(name, published[-1], self._top(name) if name in self.positioned else None)

    def lose_memory(self) -> None:
        self.epoch += 1
        for name in CHANNELS:
            self.published[name] = []
            self.states[(name, f"e{self.epoch}", 0)] = {}
            if name in self.positioned:
                self._send_subscribed(name, recovered=False)

    def fold(self) -> None:
        """Fold what waits of each task, though not across an answer, each at the place of its last."""
        folded: list[Message] = []
        for message in self.wire:
            last = None
            if message["type"] == "task_update":
                for place in range(len(folded) - 1, -1, -1):
                    if folded[place]["type"] not in ("task_update", "general_update"):
                        break
                    if folded[place].get("task_id") == message["task_id"]:
                        last = folded.pop(place)
                        break
            folded.append(message if last is None else {**message, "data": last["data"] | message["data"]})
        self.wire = folded

    def cut(self) -> None:
        self.wire = []
        self.followed, self.positioned = {"general"}, set()

    def receive(self, request: Message) -> None:
        if request["type"] == "ping":
            self.wire.append(PONG)
            return
        name = f"task:{request['task_id']}" if "task_id" in request else request["channel"]
        self.followed.discard(name)
        self.positioned.discard(name)
        if request["type"] == "unsubscribe":
            fields = {"channel": name} if name == "general" else {"task_id": name[5:]}
            self.wire.append({"type": "unsubscribed", **fields})
            return
        self.followed.add(name)
        self.positioned.add(name)
        since, published = request["position"], self.published[name]
        if since is None:
            self._send_subscribed(name, recovered=None)
        elif since["epoch"] == f"e{self.epoch}" and len(published) - since["offset"] <= self.HISTORY:
            self._send_subscribed(name, recovered=True)
            for offset in range(since["offset"] + 1, len(published) + 1):
                self._send(name, published[offset - 1], at(offset, f"e{self.epoch}"))
        else:
            self._send_subscribed(name, recovered=False)


class Consumer:
    """Takes updates, and sees that each is what it must be."""

    def __init__(self, relay: ModelRelay, is_folded: bool) -> None:
        self._relay = relay
        self._is_folded = is_folded
        self._seen: dict[str, tuple[str, int]] = {}

    def take(self, got: Update | None) -> None:
        if got is None:
            return
        if got.is_reset:
            self._seen.pop(got.channel, None)
            return
        assert got.position is not None
        epoch, offset = got.position
        before = self._seen.get(got.channel)
        if before is not None:
            assert epoch == before[0], "an epoch began, and there was no reset"
            assert offset > before[1], "not in order"
            assert self._is_folded or offset == before[1] + 1, "lost"
            assert not got.is_state
        self._seen[got.channel] = (epoch, offset)
        assert got.data["n"] == offset
        if got.channel != "general":
            assert got.state == self._relay.states[(got.channel, epoch, offset)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("request"), st.integers(1, 5)),
        st.tuples(st.just("serve"), st.integers(1, 3)),
        st.tuples(st.just("deliver"), st.integers(1, 6)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("cut"), st.none()),
        st.tuples(st.just("lose_memory"), st.none()),
        st.tuples(st.just("fold"), st.none()),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, may_fold=st.booleans(), may_lose=st.booleans())
def test_each_update_once_and_in_order_or_a_reset(steps: list[tuple[str, Any]], may_fold: bool, may_lose: bool) -> None:
    relay = ModelRelay()
    one = Subscriptions(["a", "b"], general=True)
    one.on_connected()
    consumer = Consumer(relay, may_fold)
    requested: list[Message] = []

    def step(kind: str, what: Any) -> None:
        match kind:
            case "publish":
                relay.publish(what)
            case "request":
                for _ in range(what):
                    text = one.next_request(0.0)
                    if text is not None:
                        requested.append(json.loads(text))
            case "serve":
                for request in requested[:what]:
                    relay.receive(request)
                del requested[:what]
            case "deliver":
                for message in relay.wire[:what]:
                    receive(one, message)
                del relay.wire[:what]
            case "take":
                for _ in range(what):
                    consumer.take(one.pop())
            case "cut":
                relay.cut()
                requested.clear()
                one.on_disconnected()
                one.on_connected()
            case "lose_memory" if may_lose:
                relay.lose_memory()
            case "fold" if may_fold:
                relay.fold()

    for kind, what in steps:
        step(kind, what)
    for _ in range(10):
        for kind in ("request", "serve", "deliver", "take"):
            step(kind, 1000)
    assert one.is_established
    assert one.positions == {name: (f"e{relay.epoch}", len(relay.published[name])) for name in CHANNELS}
    for name in ("task:a", "task:b"):
        assert one.states[name] == relay.states[(name, f"e{relay.epoch}", len(relay.published[name]))]
