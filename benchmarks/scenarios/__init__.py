"""The scenarios, by name. Each is a module with `run`: a context in, a report out."""

from collections.abc import Callable

from benchmarks.context import Context
from benchmarks.results import Report
from benchmarks.scenarios import (
    broadcast,
    burst,
    doors,
    durable,
    idle,
    large,
    paced,
    reconnect,
    relays,
    slow,
    storm,
    tasks,
    tls,
)

SCENARIOS: dict[str, Callable[[Context], Report]] = {
    "burst": burst.run,
    "paced": paced.run,
    "broadcast": broadcast.run,
    "tasks": tasks.run,
    "storm": storm.run,
    "reconnect": reconnect.run,
    "idle": idle.run,
    "slow": slow.run,
    "large": large.run,
    "relays": relays.run,
    "doors": doors.run,
    "tls": tls.run,
    "durable": durable.run,
}
