"""Every query of the dashboard and every alert, run by a real Prometheus that scrapes a relay under a small load.

With `-s` it prints what each query gave.
"""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from relay_wire import publications
from relay_wire.publications import Retention
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from relay.processes import start_child
from tests.deployment.monitoring import ALERTS, Query, alerts, queries
from tests.harness import PATIENCE, Client, RedisServer, RelayServer, Server, eventually
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is missing: apt install prometheus"
)

WORKERS = 2

#: Panels that show nothing but zeros while all is well.
ZERO = {
    "Alerts",
    "Coalesced per second",
    "Waiting messages",
    "Broken connections",
    "Evicted keys in 5 minutes",
    "Not stored, not readable",
}

#: Alerts for which the load is bad enough, were it to last.
PROVOKED = {"RelayInvalidPublishes", "RelayDropsClients"}

#: Of the page that the relay lets in.
ORIGIN = Origin("http://app.example")


class Prometheus(Server):
    """A Prometheus that scrapes one relay four times a second."""

    name = "prometheus"

    def __init__(self, directory: Path, target: str) -> None:
        super().__init__(directory)
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": "relay", "static_configs": [{"targets": [target]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        options = {
            "config.file": directory / "prometheus.yml",
            "storage.tsdb.path": directory / "data",
            "web.listen-address": f"127.0.0.1:{self.port}",
        }
        with self.log.open("ab") as log:
            command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
            self._child = start_child(command, stdout=log, stderr=log)
        eventually(self.is_ready)

    def _get(self, path: str, **parameters: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", params=parameters, timeout=PATIENCE)

    def is_ready(self) -> bool:
        try:
            return self._get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and values. Fails if it is not valid."""
        answer = self._get("/api/v1/query", query=expression).json()
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def scrapes(self) -> float:
        """How often it has scraped."""
        return sum(value for _, value in self.query("count_over_time(relay_connections_max[5m])"))

    def rules(self) -> list[dict[str, Any]]:
        """The rules as it has loaded them."""
        return [rule for group in self._get("/api/v1/rules").json()["data"]["groups"] for rule in group["rules"]]


class Monitored(NamedTuple):
    """A relay that has had a load, and who has scraped it."""

    relay: RelayServer
    prometheus: Prometheus


def one_round(redis: RedisServer, relay: RelayServer, client: Client, number: int) -> None:
    """Something of everything."""
    redis.publish_task("t", n=number)
    redis.publish("task_updates", "not JSON")
    script, names, values = publications.publish_call(
        "task:t", "task_update", b'{"m":%d}' % number, Retention(), fields={"m": b"%d" % number}
    )
    with redis.client() as commands:
        commands.eval(script.source, len(names), *names, *values)
    positions = [client.receive()["position"] for _ in range(2)]
    with connect(relay.url, origin=ORIGIN) as other:
        again = Client(other)
        again.send({"type": "subscribe", "task_id": "t", "position": positions[0]})
        assert again.receive()["recovered"] is True
    with pytest.raises(InvalidStatus):
        connect(relay.url, origin=Origin("http://elsewhere.example"))
    with connect(relay.url, origin=ORIGIN) as malformed, suppress(ConnectionClosed):
        while True:  # until the relay has enough of it
            malformed.send("not JSON")
            malformed.recv(PATIENCE)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    directories = [tmp_path_factory.mktemp(name) for name in ("redis", "relay", "prometheus")]
    with (
        RedisServer(directories[0], "--save", "", "--maxmemory", "64mb") as redis,
        RelayServer(directories[1], redis.url, "serve", workers=WORKERS, allowed_origins=ORIGIN) as relay,
        Prometheus(directories[2], f"127.0.0.1:{relay.port}") as prometheus,
        connect(relay.url, origin=ORIGIN) as connection,
    ):
        client = Client(connection)
        client.send({"type": "subscribe", "task_id": "t", "position": None})
        client.receive()
        eventually(lambda: relay.logged().count("redis subscription up") == WORKERS)
        number = 0
        # Until every rate can be seen: what is sampled comes now and then.
        while number < 4 or not prometheus.query("rate(relay_publish_latency_seconds_count[5m]) > 0"):
            seen = prometheus.scrapes()
            one_round(redis, relay, client, number)
            eventually(lambda seen=seen: prometheus.scrapes() > seen)  # type: ignore[misc]
            number += 1
        yield Monitored(relay, prometheus)


@pytest.mark.parametrize("query", list(queries()), ids=lambda query: f"{query.panel}: {query.legend}")
def test_a_query_of_the_dashboard_gives_what_it_should(query: Query, monitored: Monitored) -> None:
    found = monitored.prometheus.query(query.runnable)
    for labels, value in found:
        print(f"{query.panel:36} {value:16.6g} {query.unit:12} {labels}")
        assert not math.isnan(value)
        for label in re.findall(r"{{(\w+)}}", query.legend):
            assert label in labels
    assert found, "no result"
    if query.panel not in ZERO:
        assert any(value > 0 for _, value in found)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_can_be_evaluated(rule: dict[str, Any], monitored: Monitored) -> None:
    prometheus = monitored.prometheus
    compared = re.fullmatch(r"(.*) (==|>) [\d.]+", rule["expr"])
    if compared is None:
        assert rule["expr"].startswith("absent(")
    else:
        found = prometheus.query(compared[1])
        for labels, value in found:
            print(f"{rule['alert']:36} {value:16.6g} {labels}")
        assert found, "nothing to compare"
    assert bool(prometheus.query(rule["expr"])) == (rule["alert"] in PROVOKED)


def test_prometheus_has_loaded_all_alerts_and_none_fires(monitored: Monitored) -> None:
    loaded = {rule["name"]: rule for rule in monitored.prometheus.rules()}
    assert loaded.keys() == {rule["alert"] for rule in alerts()}
    eventually(lambda: all(rule["health"] == "ok" for rule in monitored.prometheus.rules()))
    assert {name for name, rule in loaded.items() if rule["state"] == "firing"} == set()


def test_several_workers_are_scraped_as_one_relay(monitored: Monitored) -> None:
    """Whichever worker answers, no counter goes back."""
    query = monitored.prometheus.query
    assert query("count(relay_connections_max)") == [({}, 1)]
    assert query('count(process_cpu_seconds_total{job="relay"})') == [({}, WORKERS)]
    counters = {labels["__name__"] for labels, _ in query('{__name__=~".+_(total|count|sum|bucket)", job="relay"}')}
    assert "process_cpu_seconds_total" in counters
    assert "relay_redis_evicted_keys_total" in counters
    assert {name: gone_back for name in counters if (gone_back := query(f"resets({name}[5m]) > 0"))} == {}
