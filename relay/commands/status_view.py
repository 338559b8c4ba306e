"""The status of relays as tables for a terminal."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from relay.core.status import Malformed, RedisServer, Relay, SlowClient, Status

#: Rows of a table that are shown.
_MAX_ROWS = 20

#: How much of its limits a client has used up that is shown in red.
_NEAR = 0.5

#: Seconds of lag that are shown in red.
_LATE = 0.1

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def _text(value: str, style: str = "") -> Text:
    """Return a text of elsewhere without what a terminal would take for a command."""
    return Text("".join(each if each.isprintable() else "\ufffd" for each in value), style)


def seconds(value: float) -> str:
    """Return a time in the unit that suits it."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    for name, unit in _UNITS:
        if value >= 2 * unit:
            return f"{value / unit:.0f} {name}"
    return f"{value:.0f} s"


def size(value: int | None) -> str:
    """Return a number of bytes in the unit that suits it."""
    if value is None:
        return "?"
    for name, unit in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value} B"


def rate(value: float) -> str:
    """Return how often in a second."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _lag(value: float) -> Text:
    return Text(seconds(value), "bold red" if value >= _LATE else "")


def _table(title: str, *columns: str) -> Table:
    """Return a table whose first column is text, and the others numbers, unless they begin with a ``<``."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(columns):
        is_text = number == 0 or name.startswith("<")
        table.add_column(
            name.removeprefix("<"),
            justify="left" if is_text else "right",
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _head(status: Status, url: str) -> Text:
    totals = status.totals
    head = Text()
    head.append("relay status", "bold")
    head.append(
        f"  {url}  version {status.version}  {len(status.relays)} relay{'s' if len(status.relays) > 1 else ''}  "
    )
    head.append(status.status, "green" if status.status == "ready" else "bold red")
    head.append(
        f"\nclients {totals.clients:,}  subscriptions {totals.subscriptions:,}  updates/s {rate(totals.updates_per_second)}"
        f"  plain/s {rate(totals.plain_per_second)}  deliveries/s {rate(totals.deliveries_per_second)}"
    )
    head.append(
        f"\nwaiting {totals.waiting_messages:,} for {totals.waiting_clients:,} clients  "
        f"coalesced/s {rate(totals.coalesced_per_second)}  dropped {totals.dropped:,}  lag "
    )
    head.append(_lag(totals.delivery_lag))
    if status.tasks is not None:
        head.append(f"\ntasks {status.tasks.known:,}  in progress {status.tasks.in_progress:,}  ")
        head.append(f"stalls {totals.stalls:,}", "bold red" if totals.stalls else "")
    if status.redis_error is not None:
        head.append("\n")
        head.append(_text(f"Redis: {status.redis_error}", "bold red"))
    if status.silent:
        head.append(f"\n{len(status.silent)} did not answer: ", "bold red")
        head.append(_text(", ".join(status.silent[:_MAX_ROWS]), "red"))
    return head


def _relays(relays: Iterable[Relay]) -> Table:
    table = _table(
        "Relays",
        "name",
        "<status",
        "up",
        "clients",
        "subscr.",
        "updates/s",
        "deliv./s",
        "waiting",
        "dropped",
        "lag",
        "loop lag",
        "reconnects",
        "stalls",
    )
    for relay in list(relays)[:_MAX_ROWS]:
        table.add_row(
            _text(relay.name),
            _text(relay.status, "green" if relay.status == "ready" else "bold red"),
            seconds(relay.uptime),
            f"{relay.clients:,}",
            f"{relay.subscriptions:,}",
            rate(relay.updates_per_second),
            rate(relay.deliveries_per_second),
            f"{relay.waiting_messages:,}",
            f"{sum(relay.dropped.values()):,}",
            _lag(relay.delivery_lag),
            _lag(relay.event_loop_lag),
            f"{relay.redis_reconnects:,}",
            f"{relay.stalls:,}",
        )
    return table


def _connections(status: Status) -> Table:
    table = _table("Connections", "way in", "<transport", "clients")
    for each in status.totals.connections[:_MAX_ROWS]:
        table.add_row(_text(each.way), _text(each.transport), f"{each.count:,}")
    return table


def _redis(servers: Iterable[RedisServer]) -> Table:
    table = _table("Redis", "server", "memory", "of", "connections", "evicted")
    for each in list(servers)[:_MAX_ROWS]:
        table.add_row(
            _text(each.server),
            size(each.memory_used),
            "no limit" if each.memory_max == 0 else size(each.memory_max),
            "?" if each.connected_clients is None else f"{each.connected_clients:,}",
            "?" if each.evicted_keys is None else f"{each.evicted_keys:,}",
        )
    return table


def _slowest(clients: Iterable[SlowClient]) -> Table:
    table = _table("Slowest clients", "client", "<way in", "<relay", "messages", "bytes", "behind for", "limit used")
    for each in clients:
        table.add_row(
            _text(each.client),
            _text(each.way),
            _text(each.relay),
            f"{each.messages:,}",
            size(each.bytes),
            seconds(each.age),
            Text(f"{each.limit_used:.0%}", "bold red" if each.limit_used >= _NEAR else ""),
        )
    return table


def _malformed(publishes: Iterable[Malformed]) -> Table:
    table = _table("Malformed publishes", "source", "<from", "<what", "count", "last", "<how it begins, or the error")
    for each in list(publishes)[:_MAX_ROWS]:
        table.add_row(
            _text(each.source),
            _text(each.client or ""),
            _text(each.code),
            f"{each.count:,}",
            f"{seconds(each.seconds_ago)} ago",
            _text(each.example or each.error),
        )
    return table


def view(status: Status, url: str) -> RenderableType:
    """Return a status for a terminal: a head, and a table for each thing that there is."""
    parts: list[RenderableType] = [_head(status, url), _relays(status.relays)]
    if status.totals.connections:
        parts.append(_connections(status))
    if status.redis:
        parts.append(_redis(status.redis))
    if status.slowest:
        parts.append(_slowest(status.slowest))
    if status.malformed:
        parts.append(_malformed(status.malformed))
    return Group(*(each for part in parts for each in (part, "")))


def trouble(message: str, last: RenderableType) -> RenderableType:
    """Return a status that cannot be read any more, below why."""
    return Group(_text(message, "bold red"), Text("This is the last status that was read:\n", "dim"), last)
