"""One trace from the publisher to the subscriber, by real processes; and nothing but updates where nothing is to be traced."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import jsonschema_rs
import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from relay_client import Publisher
from relay_wire import keys

from relay.server.asyncapi import RELAY_MESSAGES, schema_of
from tests.conftest import StartRelay
from tests.harness import PATIENCE, ROOT, RedisServer, RelayServer, eventually
from tests.integration.auth.tokens import SECRET, SETTINGS, bearer, token
from tests.integration.traces.receiver import Receiver, Span, receiving
from tests.ports import free_port

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-00"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver, to which all relays and programs of the test export."""
    with receiving() as receiver:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield receiver


class Programs:
    """Starts publishers and subscribers."""

    def __init__(self, redis: RedisServer) -> None:
        self._environ = {**os.environ, "REDIS_URL": redis.url, "OTEL_SERVICE_NAME": "app"}
        self._children: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.integration.traces.programs", *arguments]
        child = subprocess.Popen(command, cwd=ROOT, env=self._environ, stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        return child

    def publish(self, *arguments: str) -> str:
        """Publish, and return the id of the trace."""
        child = self.start("publisher", *arguments)
        output, _ = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0
        return output.strip()

    def follow(self, relay: RelayServer, count: int) -> IO[str]:
        """Follow the task; returns what the subscriber prints, from when it follows on."""
        child = self.start("subscriber", f"http://127.0.0.1:{relay.port}", str(count))
        assert child.stdout is not None
        assert child.stdout.readline() == "established\n"
        return child.stdout

    def end(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


@pytest.fixture
def programs(redis_server: RedisServer, receiver: Receiver) -> Iterator[Programs]:
    programs = Programs(redis_server)
    yield programs
    programs.end()


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def one(spans: list[Span], name: str) -> Span:
    (found,) = named(spans, name)
    return found


def plain(traceparent: str | None, **data: Any) -> bytes:
    """A message as services publish it, with a trace context beside the data."""
    beside = {} if traceparent is None else {"traceparent": traceparent}
    return msgspec.json.encode({"type": "task_update", "task_id": "t", **beside, "data": data})


@pytest.mark.parametrize("way", ["plain", "http", "durable"])
def test_one_trace_from_publisher_to_subscriber(
    way: str, redis_server: RedisServer, start_relay: StartRelay, programs: Programs, receiver: Receiver
) -> None:
    relay = start_relay(traces=True)
    subscriber = programs.follow(relay, 1)
    with relay.client("t") as old_client:
        trace_id = programs.publish(way, *([f"http://127.0.0.1:{relay.port}"] if way == "http" else []))
        assert old_client.receive() == {"type": "task_update", "task_id": "t", "data": {"way": way}}
    given = subscriber.readline().strip()
    names = ["job", "relay publish", *(["relay record"] if way != "durable" else []), "relay fan out", "relay receive"]
    spans = receiver.wait_for(trace_id, len(names))
    assert sorted(span.name for span in spans) == sorted(names)
    # Each is the child of the one before: of a durable publish, Redis' own script is what records it.
    chain = [one(spans, name) for name in names]
    assert [span.parent_id for span in chain] == ["", *(span.span_id for span in chain[:-1])]
    assert given == f"00-{trace_id}-{chain[-1].span_id}-{given[-2:]}"
    assert [span.service for span in chain] == [
        "relay" if span.name in ("relay record", "relay fan out") else "app" for span in chain
    ]
    assert all(span.start <= span.end and not span.is_error for span in chain)
    # The clock is the same one, so the spans of an update come one after the other.
    assert [span.start for span in chain] == sorted(span.start for span in chain)
    fan_out = one(spans, "relay fan out").attributes
    assert fan_out == {"messaging.system": "relay", "relay.channel.kind": "task", "relay.subscribers": 2}
    # Names may be private.
    assert not [value for span in spans for value in span.attributes.values() if value in ("t", "task:t")]


def test_a_reporter_publishes_in_the_span_in_which_it_reports(
    start_relay: StartRelay, programs: Programs, receiver: Receiver
) -> None:
    relay = start_relay(traces=True)
    programs.follow(relay, 3)
    trace_id = programs.publish("reporter")
    # The announcement, the beginning, and the end with what was reported, or before it.
    spans = receiver.wait_for(trace_id, 1 + 3 * 3)
    job = one(spans, "job")
    published = {span.span_id for span in named(spans, "relay publish")}
    assert {span.parent_id for span in named(spans, "relay publish")} == {job.span_id}
    assert {span.parent_id for span in named(spans, "relay fan out")} <= published


def test_two_relays_record_once_and_each_fans_out(
    redis_server: RedisServer, start_relay: StartRelay, receiver: Receiver
) -> None:
    relays = [start_relay(traces=True, trace_names=True) for _ in range(2)]
    with relays[0].client("t") as first, relays[1].client("t") as second:
        redis_server.publish("task_updates", plain(SAMPLED, n=1))
        for client in (first, second):
            assert client.receive() == {"type": "task_update", "task_id": "t", "data": {"n": 1}}
    spans = receiver.wait_for(TRACE_ID, 3)
    for relay in relays:
        relay.terminate()  # what they still have is exported
    spans = receiver.of_trace(TRACE_ID)
    record, fan_outs = one(spans, "relay record"), named(spans, "relay fan out")
    assert record.parent_id == SPAN_ID
    assert [span.parent_id for span in fan_outs] == [record.span_id] * 2
    assert len(spans) == 3
    assert {span.attributes["messaging.destination.name"] for span in spans} == {"task:t"}
    assert record.attributes["relay.publish.way"] == "publish"


def test_the_context_comes_before_its_update_as_described(
    redis_server: RedisServer, start_relay: StartRelay, receiver: Receiver
) -> None:
    relay = start_relay(traces=True)
    with relay.client() as client:
        client.send({"type": "subscribe", "task_id": "t", "position": None, "traces": True})
        assert client.receive()["type"] == "subscribed"
        redis_server.publish("task_updates", plain(SAMPLED, n=1))
        context, update = client.receive(), client.receive()
    jsonschema_rs.validate(schema_of(RELAY_MESSAGES["trace"]), context)
    assert (context["task_id"], context["position"]) == ("t", update["position"])
    assert update["data"] == {"n": 1}


def test_what_is_not_sampled_has_no_spans(
    redis_server: RedisServer, start_relay: StartRelay, receiver: Receiver
) -> None:
    relay = start_relay(traces=True)
    url = f"http://127.0.0.1:{relay.port}/api/tasks/t"
    malformed = ["", "00", SAMPLED.upper(), SAMPLED + "-00", f"ff{SAMPLED[2:]}", f"00-{'0' * 32}-{SPAN_ID}-01"]
    with relay.client("t") as client:
        for context in [UNSAMPLED, None, *malformed]:
            redis_server.publish("task_updates", plain(context, n=1))
            assert client.receive()["data"] == {"n": 1}
        redis_server.publish("task_updates", plain(None, n=2)[:-1] + b',"traceparent":{"a":[7]}}')
        assert client.receive()["data"] == {"n": 2}
        for headers in ({"traceparent": UNSAMPLED}, {}, {"traceparent": "?"}):
            assert httpx.post(url, json={"data": {"n": 3}}, headers=headers, timeout=PATIENCE).status_code == 200
            assert client.receive()["data"] == {"n": 3}
        with redis_server.client() as redis, redis.pubsub() as pubsub:
            pubsub.subscribe(keys.pubsub_channel("task:t"))
            redis_server.publish("task_updates", plain(UNSAMPLED, n=4))
            eventually(lambda: (got := pubsub.get_message(timeout=1)) and got["type"] == "message")
    assert relay.terminate() == 0
    assert receiver.requests == 0


def test_tokens_appear_in_no_span_and_no_log(start_relay: StartRelay, receiver: Receiver) -> None:
    relay = start_relay(traces=True, log_level="DEBUG", **SETTINGS)
    url = f"http://127.0.0.1:{relay.port}/api/tasks/t"
    scope = {"tasks": ["t"]}
    good = token(relay={"watch": scope, "publish": scope}, sub="user:7")
    bad = {token(seconds=-1): 401, good[:-3] + "AAA": 401, token(scope): 403}
    with relay.client("t", additional_headers=bearer(good)) as client:
        for text, expected in (*bad.items(), (good, 200)):
            headers = {**bearer(text), "traceparent": SAMPLED, "tracestate": "a=b"}
            assert httpx.post(url, json={"data": {"n": 1}}, headers=headers, timeout=PATIENCE).status_code == expected
        assert client.receive()["data"] == {"n": 1}
        receiver.wait_for(TRACE_ID, 2)
    assert relay.terminate() == 0
    seen = receiver.bodies + relay.logged().encode()
    assert b"relay fan out" in seen
    for secret in (SECRET, *(part for text in (good, *bad) for part in text.split(".")[1:])):
        assert secret.encode() not in seen


def test_a_relay_begins_traces_where_its_sampler_says_so(
    redis_server: RedisServer, start_relay: StartRelay, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    relay = start_relay(traces=True)
    with relay.client("t") as client:
        redis_server.publish("task_updates", plain(UNSAMPLED, n=0))
        for number in range(1, 65):
            redis_server.publish("task_updates", plain(None, n=number))
        for number in range(65):
            assert client.receive()["data"] == {"n": number}
    assert relay.terminate() == 0
    records = named(receiver.spans, "relay record")
    assert 8 <= len(records) <= 56, "about half of them"  # all others have a probability of 1e-9
    assert {span.parent_id for span in records} == {""}
    assert len({span.trace_id for span in records}) == len(records)
    # The decision is a function of the id, as that of every other sampler by ratio is.
    assert all(int(span.trace_id[16:], 16) < 1 << 63 for span in records)
    by_id = {span.trace_id: span.span_id for span in records}
    fan_outs = named(receiver.spans, "relay fan out")
    assert {span.trace_id: span.parent_id for span in fan_outs} == by_id


def test_an_update_that_redis_does_not_record_has_a_span_with_the_error(
    redis_server: RedisServer, start_relay: StartRelay, receiver: Receiver
) -> None:
    relay = start_relay(traces=True)
    too_many = {f"field{number}": number for number in range(300)}
    with relay.client("t") as client:
        redis_server.publish("task_updates", plain(SAMPLED, **too_many))
        assert client.receive()["data"] == too_many  # live only
    (record,) = receiver.wait_for(TRACE_ID, 1)
    assert (record.name, record.parent_id, record.is_error) == ("relay record", SPAN_ID, True)


def test_without_the_setting_there_are_no_spans_and_the_context_goes_nowhere(
    redis_server: RedisServer, start_relay: StartRelay, receiver: Receiver
) -> None:
    relay = start_relay()
    with relay.client("t") as client:
        redis_server.publish("task_updates", plain(SAMPLED, n=1))
        assert client.receive() == {"type": "task_update", "task_id": "t", "data": {"n": 1}}
    assert relay.terminate() == 0
    assert receiver.requests == 0


@pytest.mark.parametrize("fault", ["down", "hanging"])
def test_updates_go_on_without_a_receiver(
    fault: str,
    redis_server: RedisServer,
    start_relay: StartRelay,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    if fault == "down":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    else:
        receiver.hang()
    relay = start_relay(traces=True)
    with relay.client("t") as client:
        for number in range(300):
            redis_server.publish("task_updates", plain(SAMPLED, n=number))
        for number in range(300):
            assert client.receive()["data"] == {"n": number}
        if fault == "hanging":
            eventually(lambda: receiver.requests)
        redis_server.publish("task_updates", plain(SAMPLED, n=300))
        assert client.receive()["data"] == {"n": 300}
    assert relay.get("/readyz")[0] == 200
    # It has a moment for what is queued, however long the receiver hangs.
    assert relay.terminate() == 0
    assert "spans left out" in relay.logged()


def test_a_reader_that_knows_nothing_of_traces_skips_their_messages(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    """A relay before traces takes the messages with offset 0 for updates that it has delivered. Here it is the form of them."""
    with redis_server.client() as redis, redis.pubsub() as pubsub:
        pubsub.subscribe(keys.pubsub_channel("task:t"))
        pubsub.get_message(timeout=PATIENCE)
        tracer = TracerProvider(ALWAYS_ON, shutdown_on_exit=False).get_tracer("app")
        with Publisher(redis_server.url) as publisher, tracer.start_as_current_span("job") as job:
            position = publisher.publish_task_update("t", {"n": 1})
        assert position is not None
        received = [eventually(lambda: pubsub.get_message(timeout=1))["data"] for _ in range(2)]
    # This process exports no spans, so the context is that of the job.
    context = job.get_span_context()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert received == [
        f"{position.epoch} 0 trace\n1 {traceparent}".encode(),
        f'{position.epoch} 1 task_update\n{{"n":1}}'.encode(),
    ]


@pytest.mark.parametrize(
    "server",
    [["relay.cli", "serve", "--port"], ["hypercorn", "-w", "0", "-k", "trio", "relay.asgi:app", "-b"]],
    ids=["serve", "hypercorn"],
)
def test_the_error_without_the_packages_says_what_to_install(
    server: list[str], redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError(name=__name__)")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "REDIS_URL": redis_server.url, "RELAY_TRACES": "1"}
    address = str(free_port()) if "serve" in server else f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", *server, address]
    ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode != 0
    assert (
        "RELAY_TRACES is set, and the package opentelemetry is not installed. Run: pip install 'trio-relay[otel]'"
        in ended.stdout + ended.stderr
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "OTEL_TRACES_SAMPLER: a relay knows always_on"),
        ("OTEL_TRACES_SAMPLER_ARG", "7", "OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1, not '7'"),
    ],
)
def test_settings_that_cannot_be_right(name: str, value: str, message: str, redis_server: RedisServer) -> None:
    given = {"OTEL_TRACES_SAMPLER": "traceidratio", name: value, "REDIS_URL": redis_server.url, "RELAY_TRACES": "1"}
    command = [sys.executable, "-m", "relay.cli", "serve", "--port", str(free_port())]
    ended = subprocess.run(
        command, env={**os.environ, **given}, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode != 0
    assert message in ended.stdout + ended.stderr
