"""The scenarios, a row each: question, parameters for each size of a run, measurement, columns of the table, targets."""

from benchmarks.peers import networked, relay
from benchmarks.scenarios.base import Scenario, Sizes, Target, one_by_one
from benchmarks.scenarios.children import children
from benchmarks.scenarios.crowd import BYTES, CLIENTS, IDLE_SECONDS, IN_FLIGHT, broadcast, idle, storm
from benchmarks.scenarios.fan_out import burst, large, paced, stream, variants
from benchmarks.scenarios.network import avalanche, deploy, jitter
from benchmarks.scenarios.reports import CLIENT, OFTEN, reports
from benchmarks.scenarios.scaling import scaling
from benchmarks.scenarios.slow import MAX_RATIO, slow
from benchmarks.scenarios.tasks import few_watchers, publish_variants, reconnect

_CROWD = Sizes(max(CLIENTS.full), max(CLIENTS.quick), max(CLIENTS.tiny))
_LADDER = (5, 10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1_000)  # thousands
_BOTH = (relay.RELAY, relay.RELAY_DURABLE)
_VARIANT_PARAMETERS = {
    "clients": Sizes(500, 500, 20), "bytes": 128, "updates": Sizes(400, 200, 40), "rounds": Sizes(7, 3, 1),
    "deliveries/s": Sizes(50_000, 50_000, 1_000), "seconds": Sizes(5.0, 2.0, 0.5),
}  # fmt: skip
_VARIANT_COLUMNS = ("rate", "per_core", "cost", "p50", "p99", "server", "load_core")
_VARIANTS_COMPLETE = "variants of Relay that lost no update"

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (
    Scenario(
        "burst", "Burst fan-out", "How fast does the last of many clients have the last of many updates?",
        {"clients": Sizes(500, 500, 20), "updates": Sizes(400, 400, 40), "bytes": 128, "rounds": Sizes(9, 3, 1)},
        ("rate", "lowest", "highest", "ratio", "per_core", "server", "load", "load_core"), burst, _BOTH,
        complete=_VARIANTS_COMPLETE,
        targets=(
            Target("times the best peer with one frame per write", "ratio", 15.0,
                   versus=lambda peer: not peer.batches_writes),
            Target("times the best peer of all", "ratio", 1.0, versus=lambda _: True),
        ),
    ),
    Scenario(
        "paced", "Paced fan-out", "Up to which rate can it follow, and how late are updates?",
        {"clients": Sizes(500, 500, 20), "bytes": 128, "seconds": Sizes(4.0, 2.0, 0.5),
         "deliveries/s": Sizes([rate * 1_000 for rate in _LADDER], [10_000, 50_000, 200_000], [1_000, 2_000]),
         "rounds at 50,000/s": Sizes(7, 3, 1)},
        ("rate", "p50", "p99", "p999", "max", "ratio", "per_core", "server", "load", "load_core"), paced, _BOTH,
        ratio="p99", complete="rungs that Relay carried without loss",
        targets=(Target("times a better p99 at 50,000/s than the best peer", "ratio", 1.11, case="50,000/s",
                        versus=lambda _: True),),
    ),
    Scenario(
        "broadcast", "Broadcast to everyone", "When does the middle client of a crowd have an update, when the last?",
        {"clients": CLIENTS, "bytes": BYTES},
        ("p50", "p99", "last", "ratio", "rate", "per_core", "load", "load_core"), broadcast, (relay.RELAY,),
        ratio="p50", complete="broadcasts that reached every client of Relay, once",
        targets=(Target("times a better p50 to 10,000 clients than", "ratio", 1.0, case="10,000 clients",
                        versus=lambda peer: peer.name == "nchan"),),
    ),
    Scenario(
        "tasks", "Many tasks, few watchers", "How many updates a second can it take in?",
        {"tasks": Sizes(1000, 500, 20), "updates of each": Sizes(20, 20, 5), "bytes": 160,
         "updates/s": Sizes(2_000, 1_000, 100)},
        ("update_rate", "updates_per_core", "ratio", "rate", "p50", "p99", "server", "load_core"),
        one_by_one(few_watchers), (relay.RELAY_DURABLE, relay.RELAY), ratio="updates_per_core",
        targets=(
            Target("durable updates taken in per second of CPU, 1 watcher each", "updates_per_core", 60_000,
                   server="relay-durable", case="1 watcher each"),
            Target("times the best Python peer, 1 watcher each", "ratio", 3.0, server="relay-durable",
                   case="1 watcher each", versus=lambda peer: peer.language == "python"),
        ),
    ),
    Scenario(
        "storm", "Connection storm", "How many clients a second can connect, and what does each cost?",
        {"clients": _CROWD, "in flight": IN_FLIGHT, "bytes": BYTES},
        ("accepted", "accepted_per_core", "ratio", "p50", "p99", "failed", "server", "load"), storm,
        (relay.RELAY, relay.RELAY_GRANTS),
        ratio="accepted_per_core", complete="storms that every client of Relay survived",
        targets=(Target("connections accepted per second of CPU", "accepted_per_core", 2_000),),
    ),
    Scenario(
        "reconnect", "Everyone reconnects at once", "When are all served again after a network failure?",
        {"tasks": Sizes(1000, 200, 4), "watchers of each": 10, "updates before": 3, "missed updates": 5, "bytes": 160},
        ("served", "ratio", "recovered", "p50", "p99", "retries", "server", "load"), one_by_one(reconnect),
        (relay.RELAY_POSITIONS,), ratio="served",
        complete="times that every client of Relay recovered all it had missed, in order",
        targets=(Target("10,000 clients are served again within", "served", 6.0, at_least=False,
                        server="relay-durable", full_only=True),),
    ),
    Scenario(
        "sdk-reconnect", "Everyone reconnects at once, with Centrifuge's protocol",
        "When has every client all it missed, on Relay and on Centrifugo itself?",
        {"tasks": Sizes(1000, 200, 4), "watchers of each": 10, "updates before": 3, "missed updates": 5, "bytes": 160},
        ("served", "ratio", "recovered", "p50", "p99", "retries", "server", "load"), one_by_one(reconnect),
        (relay.RELAY_CENTRIFUGE, relay.RELAY_PROTOBUF),
        others=(networked.CENTRIFUGO_RECOVERY, networked.CENTRIFUGO_PROTOBUF), ratio="served",
        complete="times that every client of Relay recovered all it had missed, in order",
    ),
    Scenario(
        "idle", "Idle clients", "What does each client cost that receives nothing but heartbeats?",
        {"clients": _CROWD, "seconds": IDLE_SECONDS, "bytes": BYTES}, ("memory", "ratio", "idle_cpu"), idle, (relay.RELAY,),
        ratio="memory", complete="times that all of Relay's idle clients were still there at the end",
        targets=(
            Target("bytes for each idle client", "memory", 15_000, at_least=False, full_only=True),
            Target("CPU with all clients idle", "idle_cpu", 0.02, at_least=False, full_only=True),
        ),
    ),
    Scenario(
        "slow", "Slow clients among fast ones", "Do readers notice clients that stall, and are those dropped?",
        {"readers": Sizes(200, 200, 10), "stalled": 5, "updates": Sizes(1250, 500, 60), "bytes": 8192,
         "updates/s": 125},
        ("p99_without", "p99", "p99_ratio", "dropped", "dropped_after", "memory_growth", "delivered", "server",
         "load_core"),
        one_by_one(slow), (relay.RELAY,),
        complete="readers of Relay that got every update, in order, regardless of stalled clients",
        targets=(
            Target("share of stalled clients that Relay dropped", "dropped", 1.0, must=True),
            Target("p99 of Relay's readers with stalled clients, times that without", "p99_ratio", MAX_RATIO,
                   at_least=False),
        ),
    ),
    Scenario(
        "large", "Large updates", "How many bytes a second, and does one large message make others wait?",
        # The largest is below Relay's default limit of 262,144.
        {"clients": Sizes(50, 50, 4), "bytes": Sizes([4_096, 65_536, 200_000], [65_536], [65_536]),
         "bytes/s": Sizes(100_000_000, 100_000_000, 5_000_000), "seconds": Sizes(4.0, 2.0, 0.5)},
        ("bytes_rate", "p50", "p99", "max", "ratio", "delivered", "server", "load_core"), one_by_one(large), _BOTH,
        ratio="p99",
    ),
    Scenario(
        "stream", "A text that grows", "What does a delta to many watchers cost, beside the whole text each time?",
        {"clients": Sizes(500, 500, 20), "bytes": 160, "deltas/s": Sizes(1_000, 1_000, 50),
         "bytes of whole values": Sizes([4_096, 16_384], [4_096], [4_096]), "whole values/s": Sizes(50, 50, 5),
         "seconds": Sizes(4.0, 2.0, 0.5)},
        ("update_rate", "rate", "p50", "p99", "cpu_per_update", "server", "load_core"), one_by_one(stream),
        (relay.RELAY_DELTAS, relay.RELAY_DURABLE), has_peers=False,
    ),
    Scenario(
        "children", "A child of a parent with many", "What does a child's update cost, beside one of a task without a parent?",
        {"children": Sizes(10_000, 1_000, 20), "updated children": Sizes(1_000, 500, 10), "updates of each": 4,
         "bytes": 160, "updates/s": Sizes(1_000, 1_000, 100), "rounds": Sizes(7, 3, 1)},
        ("redis_per_update", "cpu_per_update", "p50", "p99", "server", "load_core"), children, (relay.RELAY_DURABLE,),
        has_peers=False,
    ),
    Scenario(
        "scaling", "More tasks, more clients", "Does an update or a delivery cost more when there are more tasks or clients?",
        {"tasks": Sizes((1, 10, 100, 1_000, 10_000), (1, 10, 100, 1_000, 4_000), (1, 10)),
         "updates/s": Sizes(2_000, 2_000, 100),
         "clients": Sizes((100, 1_000, 5_000, 10_000, 18_000), (100, 1_000, 5_000), (2, 10)),
         "deliveries/s": Sizes(30_000, 30_000, 200), "bytes": 160, "seconds": Sizes(5.0, 2.0, 0.3),
         "rounds": Sizes(3, 3, 1)},
        ("cpu_per_update", "cpu_per_delivery", "p50", "p99", "server", "load_core"), one_by_one(scaling),
        (relay.RELAY, relay.RELAY_DURABLE), has_peers=False,
    ),
    Scenario(
        "relays", "Two relays behind one Redis", "What do two relays with half of the clients each cost, on one core?",
        _VARIANT_PARAMETERS, _VARIANT_COLUMNS, variants, relay.PROCESS_VARIANTS, has_peers=False,
        complete=_VARIANTS_COMPLETE,
    ),
    Scenario(
        "workers", "Worker processes behind one port", "What do two worker processes gain, and what do they cost?",
        _VARIANT_PARAMETERS | {"clients": Sizes(5_000, 2_000, 20), "updates": Sizes(100, 100, 40)},
        (*_VARIANT_COLUMNS[:3], "accepted_per_core", *_VARIANT_COLUMNS[3:]), variants, relay.WORKER_VARIANTS,
        has_peers=False, complete=_VARIANTS_COMPLETE,
    ),
    Scenario(
        "endpoints", "Relay's endpoints", "What does each of Relay's endpoints cost?",
        _VARIANT_PARAMETERS, _VARIANT_COLUMNS, variants, relay.ENDPOINT_VARIANTS, has_peers=False,
        complete=_VARIANTS_COMPLETE,
    ),
    Scenario(
        "tls", "Relay with TLS", "What does TLS in Relay itself cost, where it cannot hijack sockets?",
        # On ASGI a client costs far more: the pace of the other scenarios would only show that it is too much, and longer
        # bursts would be coalesced.
        _VARIANT_PARAMETERS | {"deliveries/s": Sizes(5_000, 5_000, 1_000), "updates": Sizes(50, 50, 40)},
        (*_VARIANT_COLUMNS[:5], "accepted_per_core", *_VARIANT_COLUMNS[5:]), variants, relay.TLS_VARIANTS, has_peers=False,
        complete=_VARIANTS_COMPLETE,
    ),
    Scenario(
        "durable", "Ways to publish", "What does each way to publish cost the publisher, Redis and Relay?",
        {"tasks": Sizes(50, 50, 5), "fan-out clients": Sizes(500, 100, 5), "bytes": 160,
         "updates of each": Sizes(100, 40, 5), "rounds": Sizes(5, 3, 1)},
        ("round_trip", "p99", "redis_per_update", "update_rate", "cpu_per_update", "per_core", "server", "load_core"),
        publish_variants, relay.PUBLISH_VARIANTS, has_peers=False, complete="ways to publish that lost no update",
    ),
    Scenario(
        "reports", "Reports on jobs", "What does a report cost the code that reports, as an integration does?",
        {"jobs": Sizes(1_000, 300, 20), "reports/s": 1_000, "seconds": Sizes(10.0, 4.0, 0.2), "rounds": Sizes(5, 3, 1)},
        ("p50", "p99", "reporting"), reports, (relay.RELAY_DURABLE,), has_peers=False,
        complete="kinds of reports that all arrived",
        targets=(
            *(Target(f"p50 of a report: {case}", "p50", 20e-6, at_least=False, server=CLIENT, case=case)
              for case in ("waits", "begins", OFTEN, "ends")),
            Target("share of a core of a worker that reports 1,000 times a second", "reporting", 0.01, at_least=False,
                   server=CLIENT, case=OFTEN),
        ),
    ),
    Scenario(
        "jitter", "Networks that fail", "What reaches each server's own client whose network fails for two seconds at a time?",
        {"clients": Sizes(200, 60, 6), "tasks": Sizes(20, 10, 2), "bytes": 160, "updates/s of each": 10,
         "seconds": Sizes(60.0, 16.0, 3.0), "seconds between": Sizes(8.0, 6.0, 1.0), "seconds cut": Sizes(2.0, 2.0, 0.5)},
        ("delivered", "doubled", "reordered", "failures", "recovery_p50", "recovery_p99"), one_by_one(jitter),
        (networked.NETWORKED_RELAY, networked.NETWORKED_RELAY_PLAIN), others=(networked.LIMIT, *networked.SINGLE),
        targets=(Target("share delivered", "delivered", 1.0, must=True),),
    ),
    Scenario(
        "avalanche", "A restart under many clients", "When has every client of a server that was restarted all it missed?",
        {"clients": Sizes(5_000, 1_000, 20), "tasks": Sizes(50, 50, 2), "bytes": 160,
         "updates before, during, after": (5, 5, 5)},
        ("delivered", "doubled", "reordered", "accepted", "away", "served"), one_by_one(avalanche),
        (networked.ABRUPT_RELAY,), others=networked.SINGLE,
    ),
    Scenario(
        "deploy", "Two servers, replaced one by one", "Does every update reach every client while servers are replaced?",
        {"clients": Sizes(1_000, 200, 10), "tasks": Sizes(20, 10, 2), "bytes": 160, "updates/s of each": 10,
         "seconds between": Sizes(5.0, 3.0, 0.5)},
        ("delivered", "doubled", "reordered", "away"), one_by_one(deploy),
        (networked.NETWORKED_RELAY_PAIR,), others=networked.PAIRS,
    ),
    Scenario(
        "rollout", "Two relays under many clients, replaced one by one",
        "Do connects stay within their limit while relays are replaced, and does everything arrive?",
        {"clients": Sizes(5_000, 1_000, 10), "tasks": Sizes(50, 50, 2), "bytes": 160, "updates/s of each": 0.2,
         "seconds between": Sizes(10.0, 5.0, 0.5)},
        ("delivered", "doubled", "reordered", "connects", "refused", "away"), one_by_one(deploy),
        networked.PACED_RELAYS, has_peers=False,
        targets=(
            Target("share delivered", "delivered", 1.0, server="relay-paced", must=True),
            Target("connects of one relay in any second", "connects", float(networked.CONNECT_RATE), at_least=False,
                   server="relay-paced", must=True),
        ),
    ),
)}  # fmt: skip
