"""memory: many idle clients on one process. What does each cost, how fast do they come in, how fast is one broadcast?"""

import time
from contextlib import ExitStack

from benchmarks.histogram import Histogram
from benchmarks.load import SATURATED, Load
from benchmarks.publisher import Publisher
from benchmarks.results import Check, Context, Report, median, milliseconds, number, percent
from benchmarks.servers import Valkey, start_relay
from benchmarks.wire import general_form

CLIENTS, QUICK_CLIENTS = 10_000, 5_000
SIZE = 128
BROADCASTS, QUICK_BROADCASTS = 9, 5
IDLE_SECONDS, QUICK_IDLE_SECONDS = 10.0, 5.0

TARGET_BYTES = 25_000

_GREETING = '{"type":"ping"}'
_TIMEOUT = 60.0


def run(context: Context) -> Report:
    """Relay alone."""
    form = general_form(SIZE)
    broadcasts = QUICK_BROADCASTS if context.quick else BROADCASTS
    clients = QUICK_CLIENTS if context.quick else CLIENTS
    idle_seconds = QUICK_IDLE_SECONDS if context.quick else IDLE_SECONDS
    quantiles: list[tuple[int, int, int]] = []
    latency = Histogram()
    whole = True
    load_shares: list[float] = []
    with ExitStack() as stack:
        directory = context.directory / "memory"
        valkey = stack.enter_context(Valkey(directory))
        server = stack.enter_context(start_relay(directory, valkey))
        load = stack.enter_context(Load())
        publisher = stack.enter_context(Publisher(valkey.port))
        time.sleep(1)
        memory_before = server.memory()
        context.say(f"memory: connecting {clients:,} clients")
        cpu_before = server.cpu()
        connected = load.connect(server.port, clients, _GREETING, sources=4, timeout=_TIMEOUT)
        connect_cpu = server.cpu().since(cpu_before).ran
        time.sleep(2)
        memory_after = server.memory()
        context.say(f"memory: {clients:,} clients idle for {idle_seconds:.0f} s")
        cpu_before = server.cpu()
        time.sleep(idle_seconds)
        idle_cpu = server.cpu().since(cpu_before).ran / idle_seconds
        for i in range(broadcasts + 1):
            context.say(f"memory: broadcast {i} of {broadcasts}")
            load.arm(1, form)
            published = publisher.one(form)
            received = load.collect(_TIMEOUT)
            whole &= received.is_whole
            if i > 0:  # the first warms up
                ages = received.latency
                took = received.last - published
                quantiles.append((ages.quantile(0.5), ages.quantile(0.99), took))
                latency.merge(ages)
                load_shares.append(received.cpu / (took / 1e9))
            time.sleep(0.2)
        memory_end = server.memory()
    per_client = (memory_after - memory_before) / clients
    rate = connected.clients / connected.seconds
    p50, p99, last = (median([one[i] for one in quantiles]) for i in range(3))
    report = Report(
        "memory",
        {"clients": clients, "bytes": SIZE, "broadcasts": broadcasts},
        ("server", "bytes/client", "accepted/s", "CPU/accept", "idle CPU", "broadcast p50", "p99", "last", "load CPU"),
    )
    report.rows.append(
        [
            "relay", number(per_client), number(rate), f"{connect_cpu / clients * 1000:.2f} ms", f"{idle_cpu:.1%}",
            milliseconds(p50), milliseconds(p99), milliseconds(last), percent(median(load_shares)),
        ]
    )  # fmt: skip
    report.data = {
        "memory": [memory_before, memory_after, memory_end], "bytes_per_client": per_client, "accepted_per_second": rate,
        "accept_cpu": connect_cpu, "idle_cpu": idle_cpu, "broadcasts": quantiles, "latency": latency.to_json(),
        "load_cpu_connecting": connected.cpu / connected.seconds, "load_cpu_broadcast": load_shares,
    }  # fmt: skip
    report.checks = [
        Check("every broadcast reached every client, once", whole, 1, at_least=True, must=True),
        Check("bytes per idle client", per_client, TARGET_BYTES, at_least=False),
    ]
    if connected.cpu / connected.seconds > SATURATED:
        report.notes.append("the load generator was saturated while connecting: more may be accepted than shown")
    if median(load_shares) > SATURATED:
        report.notes.append("the load generator was saturated by the broadcasts: their latency is in part its own")
    return report
