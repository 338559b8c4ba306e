"""The dashboard and the alerts fit the metrics and the documentation, and each alert fires when it should."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.broker.server_usage import ServerUsage
from relay.metrics import Metrics
from tests.deployment.manifests import compose
from tests.deployment.monitoring import ALERTS, DASHBOARD, SCRAPING, alerts, dashboard, panels, queries
from tests.harness import ROOT

DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/trio-relay/trio-relay/blob/main/docs/"

#: Names that Prometheus makes itself.
ITS_OWN = {"up", "ALERTS"}


def exposed() -> set[str]:
    """The names of all samples of a relay."""
    metrics = Metrics()
    metrics.set_redis_usage({"redis": ServerUsage(1, 1, 1, 1)})
    types = re.findall(r"^# TYPE (\w+) (\w+)$", metrics.render().decode(), re.MULTILINE)
    return {name + ("_bucket" if kind == "histogram" else "") for name, kind in types}


def used(expression: str) -> set[str]:
    """The metrics that a query names."""
    return set(re.findall(r"\b(?:relay|process)_\w+", expression)) | ITS_OWN & set(re.findall(r"\w+", expression))


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_queries_use_metrics_that_there_are() -> None:
    known = exposed() | ITS_OWN
    for expression in (*(query.expression for query in queries()), *(rule["expr"] for rule in alerts())):
        assert used(expression), expression
        assert used(expression) <= known, expression


def test_every_metric_of_relay_is_on_the_dashboard() -> None:
    shown = {name for query in queries() for name in used(query.expression)}
    assert {name for name in exposed() if name.startswith("relay_")} <= shown


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"[1-9]\d*[sm]", rule["for"])
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    notes = rule["annotations"]
    assert set(notes) == {"summary", "runbook_url", "troubleshooting_url"}
    assert notes["runbook_url"] == f"{REPOSITORY}monitoring.md#{rule['alert'].lower()}"
    page, _, anchor = notes["troubleshooting_url"].removeprefix(REPOSITORY).partition("#")
    assert anchor in anchors(page)
    text = (DOCS / "monitoring.md").read_text()
    (section,) = re.findall(rf"^### {rule['alert']}$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert f"({page}#{anchor})" in section  # the link that the alert has, too
    assert f"`{rule['for']}`" in section
    assert rule["labels"]["severity"] in section


def test_the_page_has_no_alerts_that_are_gone() -> None:
    sections = re.findall(r"^### (Relay\w+)$", (DOCS / "monitoring.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in alerts())


def test_panels_do_not_overlap_and_have_what_grafana_needs() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in panels():
        assert panel["description"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))
        for target in panel["targets"]:  # all can be narrowed down to some relays
            selectors = target["expr"].count('{job=~"$job", instance=~"$instance"')
            assert selectors == len(re.findall(r"\b(?:relay|process)_\w+|\bup\b", target["expr"]))
    assert {"datasource", "job", "instance"} == {variable["name"] for variable in dashboard()["templating"]["list"]}


def test_compose_gives_prometheus_and_grafana_their_files() -> None:
    services = compose()
    mounts = {
        name: [each.split(":") for each in services[name]["volumes"] if each.startswith("./")]
        for name in ("prometheus", "grafana")
    }
    for mount in (*mounts["prometheus"], *mounts["grafana"]):
        assert (ROOT / "docker" / mount[0]).exists(), mount
        assert mount[2] == "ro"
    (place,) = (target for source, target, _ in mounts["prometheus"] if source == "./prometheus")
    scraping = yaml.safe_load(SCRAPING.read_text())
    assert scraping["rule_files"] == [ALERTS.name]
    config = f"--config.file={place}/{SCRAPING.name}"
    assert config in services["prometheus"]["command"]
    (job,) = scraping["scrape_configs"]
    relays = [f"{name}:8000" for name in services if name.startswith("relay-")]
    assert job["static_configs"] == [{"targets": relays}]
    assert re.fullmatch(r"(.*/)?relay", job["job_name"])  # what RelayDown looks for
    provisioning = ROOT / "docker" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "relay.yml").read_text())["providers"]
    targets = [target for source, target, _ in mounts["grafana"] if source == f"./grafana/{DASHBOARD.name}"]
    assert [str(Path(target).parent) for target in targets] == [provider["options"]["path"]]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]


# --- by promtool

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: apt install prometheus"
)

R = '{instance="r:8000", job="relay"}'
RELAY = {"instance": "r:8000", "job": "relay"}


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    chosen = {**RELAY, **labels} if name != "none" else labels
    return {
        "series": name + "{" + ", ".join(f'{key}="{value}"' for key, value in chosen.items()) + "}",
        "values": values,
    }


def histogram(name: str, slow: str) -> list[dict[str, str]]:
    """A histogram, of whose events a part took between 0.5 and 1 s."""
    return [
        series(f"{name}_bucket", "0+90x40", le="0.1"),
        series(f"{name}_bucket", "0+90x40", le="0.5"),
        series(f"{name}_bucket", slow, le="1"),
        series(f"{name}_bucket", slow, le="+Inf"),
    ]


#: For each alert: what Prometheus scrapes once a minute, the labels of the alert, and its summary.
FIRING: dict[str, tuple[list[dict[str, str]], dict[str, str], str]] = {
    "RelayDown": ([series("up", "0x40")], RELAY, "The relay r:8000 does not answer"),
    "RelayAbsent": ([series("other", "0x40")], {}, "Prometheus sees no relay at all"),
    "RelayRedisDown": ([series("relay_redis_up", "0x40")], RELAY, "The relay r:8000 receives nothing from Redis"),
    "RelayProbeLate": (
        [series("relay_redis_probe_age_seconds", "90x40")],
        RELAY,
        "What is published reaches r:8000 1m 30s late, or not at all",
    ),
    "RelayRedisUnstable": (
        [series("relay_redis_reconnects_total", "0+1x40")],
        RELAY,
        "r:8000 lost its Redis connection 15 times in 15 minutes",
    ),
    "RelayOutputBufferExceeded": (
        [series("relay_redis_output_buffer_disconnects_total", "0x20 1x20")],
        RELAY,
        "Redis cut off r:8000, which did not read as fast as others publish",
    ),
    "RelayUpdatesNotStored": (
        [series("relay_updates_unpersisted_total", "0+5x40")],
        RELAY,
        "Redis does not store updates: clients of r:8000 cannot resume",
    ),
    "RelayRedisMemoryHigh": (
        [
            series("relay_redis_memory_used_bytes", "90x40", server="redis"),
            series("relay_redis_memory_max_bytes", "100x40", server="redis"),
            series("relay_redis_memory_used_bytes", "90x40", server="unlimited"),
            series("relay_redis_memory_max_bytes", "0x40", server="unlimited"),
        ],
        {"server": "redis"},
        "Redis redis uses 90% of its maxmemory",
    ),
    "RelayRedisEvicts": (
        [series("relay_redis_evicted_keys_total", "7x20 8x20", server="redis")],
        {"server": "redis"},
        "Redis redis deletes histories and states for want of memory",
    ),
    "RelayHistoryLost": (
        [series("relay_history_resets_total", "0+1x40")],
        RELAY,
        "Redis lost the history of 10 channels that clients of r:8000 follow",
    ),
    "RelayInvalidPublishes": (
        [series("relay_updates_invalid_total", "0+1x40", code="not_json")],
        {"code": "not_json"},
        "A service publishes messages that relays cannot read: not_json",
    ),
    "RelayDropsClients": (
        [
            series("relay_connections_dropped_total", "0+6x40", reason="slow_age"),
            series("relay_connections", "9x40", transport="hijacked"),
        ],
        RELAY,
        "r:8000 drops 1% of its clients each second",
    ),
    "RelayRefusesClients": (
        [
            series("relay_connections_refused_total", "0+60x40", reason="origin"),
            series("relay_connections_refused_total", "0+60x40", reason="draining"),
        ],
        {**RELAY, "reason": "origin"},
        "r:8000 refuses clients: origin",
    ),
    "RelayConnectionsNearLimit": (
        [
            series("relay_connections", "50x40", transport="hijacked"),
            series("relay_connections", "40x40", transport="sse"),
            series("relay_connections_max", "100x40"),
        ],
        RELAY,
        "r:8000 has 90% of the clients that it lets in",
    ),
    "RelayFilesNearLimit": (
        [
            series("process_open_fds", "90x40", worker="1"),
            series("process_max_fds", "100x40", worker="1"),
            series("process_open_fds", "90x40", job="other"),
            series("process_max_fds", "100x40", job="other"),
            series("relay_connections_max", "100x40"),
        ],
        {**RELAY, "worker": "1"},
        "r:8000 has 90% of the files open that it may open",
    ),
    "RelayPublishLatencyHigh": (
        histogram("relay_publish_latency_seconds", "0+100x40"),
        RELAY,
        "1% of the updates take over 950ms from Redis to clients of r:8000",
    ),
    "RelayEventLoopSlow": (
        histogram("relay_event_loop_lag_seconds", "0+100x40"),
        RELAY,
        "The event loop of r:8000 is late by 950ms: it has too much to do",
    ),
}

#: Of a relay that is well: nothing fires.
HEALTHY = [
    series("up", "1x40"),
    series("relay_redis_up", "1x40"),
    series("relay_redis_probe_age_seconds", "2x40"),
    series("relay_redis_reconnects_total", "0x10 1x30"),
    series("relay_redis_output_buffer_disconnects_total", "0x40"),
    series("relay_updates_unpersisted_total", "0x40"),
    series("relay_redis_memory_used_bytes", "70x40", server="redis"),
    series("relay_redis_memory_max_bytes", "100x40", server="redis"),
    series("relay_redis_evicted_keys_total", "7x40", server="redis"),
    series("relay_history_resets_total", "0x40"),
    series("relay_updates_invalid_total", "3x40", code="not_json"),
    series("relay_connections_dropped_total", "0+1x40", reason="slow_age"),
    series("relay_connections", "80x40", transport="hijacked"),
    series("relay_connections_max", "100x40"),
    series("relay_connections_refused_total", "0+600x40", reason="draining"),
    series("relay_connections_refused_total", "0+1x40", reason="origin"),
    series("process_open_fds", "50x40"),
    series("process_max_fds", "100x40"),
    *histogram("relay_publish_latency_seconds", "0+90x40"),
    *histogram("relay_event_loop_lag_seconds", "0+90x40"),
]


def unit_tests() -> dict[str, Any]:
    """Tests of the rules in promtool's form."""
    tests: list[dict[str, Any]] = []
    for rule in alerts():
        scraped, labels, summary = FIRING[rule["alert"]]
        notes = {**rule["annotations"], "summary": summary}
        expected = {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": notes}
        tests += [
            {
                "name": f"{rule['alert']} fires",
                "interval": "1m",
                "input_series": scraped,
                "alert_rule_test": [{"eval_time": "30m", "alertname": rule["alert"], "exp_alerts": [expected]}],
            }
        ]
    quiet = [{"eval_time": "30m", "alertname": rule["alert"], "exp_alerts": []} for rule in alerts()]
    tests.append({"name": "nothing fires", "interval": "1m", "input_series": HEALTHY, "alert_rule_test": quiet})
    return {"rule_files": [str(ALERTS)], "evaluation_interval": "30s", "tests": tests}


@needs_promtool
def test_the_rules_are_valid() -> None:
    for check in (["rules", str(ALERTS)], ["config", "--syntax-only", str(SCRAPING)]):
        run = subprocess.run(["promtool", "check", *check], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_on_a_healthy_relay(tmp_path: Path) -> None:
    assert FIRING.keys() == {rule["alert"] for rule in alerts()}
    file = tmp_path / "alerts_test.yml"
    file.write_text(yaml.safe_dump(unit_tests()))
    run = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
