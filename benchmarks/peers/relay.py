"""Relay as its users run it: the stock Hypercorn command of the README, default settings. Its ways to publish are here too."""

from dataclasses import replace

from relay_wire import channels, keys, publications, scripts
from relay_wire.channels import GENERAL_UPDATES, TASK_PREFIX, TASK_UPDATES
from relay_wire.creation import NO_OPTIONS, CreationOptions, creation_options

from benchmarks.peers.base import Peer
from benchmarks.peers.centrifuge import CENTRIFUGE, CENTRIFUGE_PROTOBUF, recovering
from benchmarks.protocol import TASKS, Endpoint, Publishing
from benchmarks.wire import Update, resp
from relay.core import topics
from relay.protocols.mercure_forms import TOPIC_UPDATE, TopicUpdate, stored_form

#: The task whose children are published.
PARENT = "parent"


def _channel(update: Update) -> tuple[str, str]:
    """Return Relay's channel and the kind of the update."""
    if update.task is None:
        return channels.GENERAL, channels.GENERAL_UPDATE
    return TASK_PREFIX + update.task, channels.TASK_UPDATE


def publish_plainly(update: Update) -> bytes:
    """PUBLISH on the two channels that Relay accepts from any service."""
    return resp("PUBLISH", GENERAL_UPDATES if update.task is None else TASK_UPDATES, update.payload)


def publish_durably(update: Update, options: CreationOptions = NO_OPTIONS) -> bytes:
    """Run Relay's own script, as its clients do: Redis numbers the update and keeps it before it is published."""
    channel, kind = _channel(update)
    pairs = (pair.partition(b":") for pair in update.data[1:-1].split(b","))  # all strings, without quotes and commas
    fields = {} if update.task is None else {name.strip(b'"').decode(): value for name, _, value in pairs}
    call = publications.publish_call(
        channel, kind, update.data, publications.Retention(), fields=fields, options=options
    )
    return resp("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.values)


def publish_child(update: Update) -> bytes:
    """Publish an update that makes its task a child of `PARENT`."""
    return publish_durably(update, creation_options(parent_id=PARENT))


def publish_delta(update: Update) -> bytes:
    """Append the padding to a text of the task, as `task.append` of Relay's clients does."""
    channel, _ = _channel(update)
    head, _, padding = update.data.partition(b',"pad":')
    delta = padding.removesuffix(b"}")
    data = b'%b,"pad":{"$append":%b}}' % (head, delta)
    pairs = (pair.partition(b":") for pair in head[1:].split(b","))
    fields = {name.strip(b'"').decode(): value for name, _, value in pairs}
    fields["pad"] = publications.encode_operation(delta, is_append=True)
    retention = publications.Retention(max_state_bytes=1 << 26)
    call = publications.publish_call(channel, channels.TASK_DELTA, data, retention, fields=fields)
    return resp("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.values)


def publish_unpersisted(update: Update) -> bytes:
    """PUBLISH as Relay's clients do when Redis has no memory to persist an update: live, and without a position."""
    channel, kind = _channel(update)
    return resp("PUBLISH", keys.pubsub_channel(channel), publications.unpersisted_message(kind, update.data))


def publish_topic(update: Update) -> bytes:
    """Run the script for an update of a topic of Mercure, as a POST of its form does."""
    data = stored_form(TopicUpdate([update.task or "general"], update.data.decode()))
    call = publications.publish_call(topics.TOPICS, TOPIC_UPDATE, data, publications.Retention())
    return resp("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.values)


PLAIN = Publishing(publish_plainly)
DURABLE = Publishing(publish_durably, ack=b"*5\r\n", script=scripts.load("publish").source)
CHILD = replace(DURABLE, command=publish_child)
DELTA = replace(DURABLE, command=publish_delta)
TOPICS = replace(DURABLE, command=publish_topic)
UNPERSISTED = Publishing(publish_unpersisted)

#: Clients that only follow what is for everyone. The pong shows that the session is up.
GENERAL = Endpoint("/ws/tasks", (('{"type":"ping"}', '"pong"'),))

#: Clients that send the position that they saw last, and learn whether they recovered all since.
POSITIONS = Endpoint("/ws/tasks", (('{"type":"subscribe","task_id":"{task}","position":{position}}', '"subscribed"'),))

#: Clients that take what is appended to a text, not the whole of it.
DELTAS = Endpoint("/ws/tasks", (('{"type":"subscribe","task_id":"{task}","deltas":true}', '"subscribed"'),))

#: Clients that follow a task together with its children.
FAMILY = Endpoint(
    "/ws/tasks",
    (('{"type":"subscribe","task_id":"{task}","children":true,"position":null}', '"subscribed"'),),
)

EVENTS = Endpoint("/events?task={task}", ((None, "retry:"),), kind="sse")

#: Clients of Mercure, whose topics are names of tasks without the prefix: they have no channel of their own.
MERCURE = Endpoint("/.well-known/mercure?topic={task}", ((None, "retry:"),), kind="sse")


RELAY = Peer(
    "relay", "Relay", "$python -m hypercorn -k trio -b 127.0.0.1:$port --backlog 4096 relay.asgi:app",
    environ={"REDIS_URL": "$redis_url"}, ready_path="/readyz", everyone=GENERAL, publishing=PLAIN,
)  # fmt: skip
RELAY_DURABLE = replace(RELAY, name="relay-durable", title="Relay, durable publish", publishing=DURABLE)
RELAY_DELTAS = replace(RELAY, name="relay-deltas", title="Relay, deltas", endpoint=DELTAS, publishing=DELTA)
RELAY_POSITIONS = replace(RELAY_DURABLE, endpoint=POSITIONS, recovers=True)
RELAY_CENTRIFUGE, RELAY_PROTOBUF = (
    replace(
        RELAY_DURABLE, name=name, title=f"Relay, Centrifuge in {form}", endpoint=recovering(endpoint), recovers=True
    )
    for name, form, endpoint in (
        ("relay-centrifuge", "JSON", CENTRIFUGE),
        ("relay-protobuf", "Protocol Buffers", CENTRIFUGE_PROTOBUF),
    )
)

_SECRET = "the secret of the benchmarks, of 32 bytes and more"

#: Every client shows a token of its own when it connects.
RELAY_GRANTS = replace(
    RELAY, name="relay-grants", title="Relay, HS256 grants", packages=("pyjwt",),
    environ={**RELAY.environ, "RELAY_JWT_SECRET": _SECRET},
    endpoint=replace(TASKS, token_secret=_SECRET), everyone=replace(GENERAL, token_secret=_SECRET),
)  # fmt: skip

#: The same updates through each of Relay's endpoints.
ENDPOINT_VARIANTS = (
    replace(RELAY, name="relay-tasks", title="Relay, /ws/tasks"),
    replace(RELAY, name="relay-positions", title="Relay, /ws/tasks with positions", endpoint=POSITIONS),
    replace(RELAY, name="relay-events", title="Relay, /events", endpoint=EVENTS),
    replace(RELAY_DURABLE, name="relay-events-durable", title="Relay, /events, durable publish", endpoint=EVENTS),
    replace(RELAY, name="relay-centrifuge", title="Relay, Centrifuge in JSON", endpoint=CENTRIFUGE),
    replace(RELAY, name="relay-protobuf", title="Relay, Centrifuge in Protocol Buffers", endpoint=CENTRIFUGE_PROTOBUF),
    replace(RELAY, name="relay-mercure", title="Relay, Mercure", endpoint=MERCURE, publishing=TOPICS),
)

#: One process with all clients, or two behind one Redis with half of them each.
PROCESS_VARIANTS = tuple(
    replace(base, name=f"{base.name}-x{count}", title=f"{base.title}, {count} processes", processes=count)
    for base in (RELAY, RELAY_DURABLE)
    for count in (1, 2)
)

#: One worker process behind the port, or two. They may use all cores, so on two cores the load has no core of its own.
WORKER_VARIANTS = tuple(
    replace(
        RELAY_DURABLE, name=f"relay-workers-{count}", title=f"Relay with {count} worker process{'es' if count > 1 else ''}",
        command=f"$python -m relay.cli serve --port $port --workers {count}", has_all_cores=True,
    )
    for count in (1, 2)
)  # fmt: skip

#: With TLS in Relay itself sessions stay on ASGI.
TLS_VARIANTS = (
    replace(RELAY, name="relay-plain", title="Relay, plain"),
    replace(
        RELAY, name="relay-tls", title="Relay, TLS", command=f"{RELAY.command} --keyfile $key --certfile $chain",
        endpoint=replace(TASKS, tls=True), everyone=replace(GENERAL, tls=True),
    ),
)  # fmt: skip

#: Each way to publish.
PUBLISH_VARIANTS = (
    replace(RELAY, name="relay-publish", title="Relay, PUBLISH"),
    RELAY_DURABLE,
    replace(RELAY, name="relay-unpersisted", title="Relay, unpersisted", publishing=UNPERSISTED),
)
