"""The status of all relays on one Redis, as operators read it: what each reports of itself, and what is added up from that."""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Annotated

import msgspec
from msgspec import Meta

#: Clients that are named as the slowest, of each relay and of all together.
MAX_SLOWEST = 10

#: Sources of malformed publishes that are named.
MAX_MALFORMED = 32


class Connections(msgspec.Struct, frozen=True):
    """The clients of one way in and one transport."""

    way: Annotated[str, Meta(description="The path at which they connected.")]
    transport: Annotated[str, Meta(description="`hijacked`: Relay has the socket; `asgi`: through the ASGI server.")]
    count: int


class SlowClient(msgspec.Struct, frozen=True):
    """A client for which messages wait."""

    client: Annotated[str, Meta(description="Its address.")]
    way: Annotated[str, Meta(description="The path at which it connected.")]
    transport: str
    messages: Annotated[int, Meta(description="Messages that wait for it.")]
    bytes: Annotated[int, Meta(description="Bytes that wait for it.")]
    age: Annotated[float, Meta(description="Seconds for which it has been behind: since nothing waited for it.")]
    limit_used: Annotated[float, Meta(description="How near it is to being dropped: 1 is at one of its limits.")]
    relay: Annotated[str, Meta(description="The relay that it is connected to.")] = ""


class Malformed(msgspec.Struct, frozen=True):
    """Publishes of one source that were skipped or refused for one reason."""

    source: Annotated[str, Meta(description="`PUBLISH` and a channel of Redis, or `HTTP API`.")]
    client: Annotated[str | None, Meta(description="Who published it over HTTP: an address.")]
    code: Annotated[str, Meta(description="What is wrong, as a short name.")]
    count: Annotated[int, Meta(description="How many there were since the relay started.")]
    seconds_ago: Annotated[float, Meta(description="When the last one came.")]
    error: Annotated[str, Meta(description="What is wrong with the last one.")]
    example: Annotated[str | None, Meta(description="How the last one begins; null over HTTP.")]


class Relay(msgspec.Struct, frozen=True):
    """One relay process: its counts, and its rates over the last ten seconds."""

    id: Annotated[str, Meta(description="Names it among the others; another one after each start.")]
    name: Annotated[str, Meta(description="Its host and process id.")]
    version: str
    status: Annotated[str, Meta(description="`ready`, or why it takes no clients now.")]
    uptime: Annotated[float, Meta(description="Seconds since its start.")]
    clients: int
    users: Annotated[int, Meta(description="Users among the clients that have an id.")]
    subscriptions: int
    channels: Annotated[int, Meta(description="Channels with subscribers.")]
    connections: list[Connections]
    updates_per_second: Annotated[float, Meta(description="Updates received from Redis.")]
    plain_per_second: Annotated[
        float, Meta(description="Plain publishes received from Redis, which reach every relay.")
    ]
    deliveries_per_second: Annotated[float, Meta(description="Messages written to clients.")]
    coalesced_per_second: Annotated[float, Meta(description="Updates merged into later ones for slow clients.")]
    delivery_lag: Annotated[
        float, Meta(description="Worst seconds from receiving an update to having written it, of the last ten.")
    ]
    event_loop_lag: Annotated[
        float, Meta(description="Worst seconds by which a task of its event loop ran late, of the last ten.")
    ]
    waiting_clients: Annotated[int, Meta(description="Clients for which messages wait.")]
    waiting_messages: Annotated[
        int, Meta(description="What waits for the 1,024 of them that have been behind the longest.")
    ]
    dropped: Annotated[dict[str, int], Meta(description="Clients dropped since its start, by reason.")]
    stalls: Annotated[int, Meta(description="Tasks that it has marked as stalled since its start.")]
    redis_connected: bool
    redis_reconnects: Annotated[int, Meta(description="Times it lost its subscription since its start.")]
    slowest: list[SlowClient]
    malformed: list[Malformed]


class RedisServer(msgspec.Struct, frozen=True):
    """What one Redis server uses; null for what it does not say."""

    server: Annotated[str, Meta(description="`redis`, or the node of a cluster.")]
    memory_used: Annotated[int | None, Meta(description="Bytes.")]
    memory_max: Annotated[int | None, Meta(description="`maxmemory` in bytes; 0 is no limit.")]
    connected_clients: int | None
    evicted_keys: Annotated[int | None, Meta(description="Since it started.")]


class Tasks(msgspec.Struct, frozen=True):
    """The tasks in Redis."""

    known: int
    in_progress: int


class Totals(msgspec.Struct, frozen=True):
    """The sums over the relays that answered, except for plain publishes and lags, where it is the greatest."""

    clients: int
    subscriptions: int
    updates_per_second: float
    plain_per_second: float
    deliveries_per_second: float
    coalesced_per_second: float
    delivery_lag: float
    event_loop_lag: float
    waiting_clients: int
    waiting_messages: int
    dropped: int
    stalls: int
    connections: list[Connections]


class Status(msgspec.Struct, frozen=True):
    """All relays on one Redis."""

    version: Annotated[str, Meta(description="Of the relay that answers.")]
    status: Annotated[str, Meta(description="Of the relay that answers: `ready`, or why it takes no clients now.")]
    answered_by: Annotated[str, Meta(description="The `id` of the relay that answers.")]
    needs_grants: bool
    profile: str
    relays: Annotated[list[Relay], Meta(description="Those that answered in time, by name.")]
    silent: Annotated[list[str], Meta(description="The ids of relays that did not answer, or not in this form.")]
    totals: Totals
    redis: list[RedisServer]
    redis_error: Annotated[str | None, Meta(description="Why Redis, or the other relays, could not be asked.")]
    tasks: Tasks | None
    slowest: Annotated[list[SlowClient], Meta(description="The clients nearest to being dropped, first.")]
    malformed: Annotated[list[Malformed], Meta(description="Who publishes what is malformed, the latest first.")]


def totals_of(relays: Sequence[Relay]) -> Totals:
    """Add up what relays report."""
    counts: Counter[tuple[str, str]] = Counter()
    for relay in relays:
        for each in relay.connections:
            counts[each.way, each.transport] += each.count
    return Totals(
        clients=sum(relay.clients for relay in relays),
        subscriptions=sum(relay.subscriptions for relay in relays),
        updates_per_second=sum(relay.updates_per_second for relay in relays),
        plain_per_second=max((relay.plain_per_second for relay in relays), default=0.0),
        deliveries_per_second=sum(relay.deliveries_per_second for relay in relays),
        coalesced_per_second=sum(relay.coalesced_per_second for relay in relays),
        delivery_lag=max((relay.delivery_lag for relay in relays), default=0.0),
        event_loop_lag=max((relay.event_loop_lag for relay in relays), default=0.0),
        waiting_clients=sum(relay.waiting_clients for relay in relays),
        waiting_messages=sum(relay.waiting_messages for relay in relays),
        dropped=sum(sum(relay.dropped.values()) for relay in relays),
        stalls=sum(relay.stalls for relay in relays),
        connections=[Connections(*kind, count) for kind, count in sorted(counts.items()) if count],
    )


def slowest_of(relays: Iterable[Relay]) -> list[SlowClient]:
    """Return the clients of several relays that are nearest to being dropped, each with its relay."""
    clients = (msgspec.structs.replace(client, relay=relay.name) for relay in relays for client in relay.slowest)
    return nlargest(MAX_SLOWEST, clients, key=lambda each: (each.limit_used, each.age))


def malformed_of(relays: Iterable[Relay]) -> list[Malformed]:
    """Return the malformed publishes of several relays, the latest first.

    All relays receive the same plain publishes, so these are not added up: the relay that runs longest has seen the most.
    """
    merged: dict[tuple[str, str | None, str], Malformed] = {}
    for relay in relays:
        for each in relay.malformed:
            key = each.source, each.client, each.code
            known = merged.get(key)
            if known is None:
                merged[key] = each
                continue
            latest = min(known, each, key=lambda one: one.seconds_ago)
            count = known.count + each.count if each.client is not None else max(known.count, each.count)
            merged[key] = msgspec.structs.replace(latest, count=count)
    return sorted(merged.values(), key=lambda each: each.seconds_ago)[:MAX_MALFORMED]
