"""Metrics of several worker processes that share a directory: what one leaves, and what another shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import values

from relay import worker_metrics
from relay.broker.server_usage import ServerUsage
from relay.metrics import Metrics
from relay.worker_metrics import forget_worker, identify_worker


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that this process shares."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setattr(worker_metrics, "_numbers", [])
    return tmp_path


def lines(metrics: Metrics, *names: str) -> dict[str, float]:
    """The samples of these names, as the relay shows them."""
    rendered = metrics.render().decode()
    samples = (line.rsplit(" ", 1) for line in rendered.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in samples if name.partition("{")[0] in names}


def worker(number: int) -> Metrics:
    """The metrics of another worker; this process stands for all of them."""
    identify_worker(number)
    return Metrics()


def test_gauges_of_a_dead_worker_go_and_its_counters_stay(directory: Path) -> None:
    for number in (0, 1):
        metrics = worker(number)
        metrics.subscriptions.set(10 + number)
        metrics.redis_up.set(number)
        metrics.redis_probe_age.set(5 - number)
        metrics.messages_sent.inc(3)
        metrics.event_loop_lag.observe(0.002)
        metrics.connections_max.set(100)
    names = (
        "relay_subscriptions",
        "relay_redis_up",
        "relay_redis_probe_age_seconds",
        "relay_connections_max",
        "relay_messages_sent_total",
        "relay_event_loop_lag_seconds_count",
    )
    assert lines(metrics, *names) == dict(zip(names, (21, 0, 5, 200, 6, 2), strict=True))
    forget_worker(0, directory)
    assert lines(metrics, *names) == dict(zip(names, (11, 1, 4, 100, 6, 2), strict=True))


def test_a_worker_that_takes_the_place_of_another_goes_on_counting() -> None:
    worker(0).messages_sent.inc(3)
    again = worker(0)
    again.messages_sent.inc(1)
    assert lines(again, "relay_messages_sent_total") == {"relay_messages_sent_total": 4}


def test_redis_is_shown_as_the_latest_look_of_any_worker_saw_it(directory: Path) -> None:
    name = 'relay_redis_evicted_keys_total{server="redis"}'
    first, second = worker(0), worker(1)
    for evicted, metrics in enumerate((first, second, first)):
        metrics.set_redis_usage({"redis": ServerUsage(1, 2, None, evicted)})
        os.utime(directory / f"redis_{int(metrics is second)}.json", ns=(evicted, evicted))
        for each in (first, second):
            assert lines(each, "relay_redis_evicted_keys_total") == {name: evicted}
    first.set_redis_usage({})
    assert lines(first, "relay_redis_evicted_keys_total") == {name: 1}
    assert lines(first, "relay_redis_connected_clients") == {}
    forget_worker(1, directory)
    assert lines(first, "relay_redis_evicted_keys_total") == {}


def test_each_process_has_its_own_series(directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        metrics = worker(0)
        (directory / "process_1.pid").write_text(str(other.pid))
        (directory / "process_2.pid").write_text("")  # it begins just now
        found = lines(metrics, "process_start_time_seconds", "process_open_fds")
        assert len(found) == 4
        began = [found[f'process_start_time_seconds{{worker="{number}"}}'] for number in (0, 1)]
        assert began[0] < began[1]
        assert metrics.render().count(b"# TYPE process_cpu_seconds_total counter") == 1
        forget_worker(1, directory)
        assert list(lines(metrics, "process_open_fds")) == ['process_open_fds{worker="0"}']
        other.communicate(b"\n")


def test_without_a_supervisor_of_ours_a_dead_process_is_forgotten_when_it_is_asked_for(directory: Path) -> None:
    """Hypercorn replaces workers, and removes nothing of them."""
    source = (
        "from relay.metrics import Metrics; metrics = Metrics(); metrics.subscriptions.set(5);"
        "metrics.messages_sent.inc(2); print(metrics.render().decode())"
    )
    seen = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True, text=True).stdout
    assert "relay_subscriptions 5.0" in seen
    assert len(list(directory.glob("process_*.pid"))) == 1
    # As in a process that began with the variable.
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    metrics = Metrics()
    metrics.subscriptions.set(1)
    found = lines(metrics, "relay_subscriptions", "relay_messages_sent_total")
    assert found == {"relay_subscriptions": 1, "relay_messages_sent_total": 2}
    assert [path.name for path in directory.glob("process_*.pid")] == [f"process_{os.getpid()}.pid"]


def test_known_labels_begin_with_zero() -> None:
    found = lines(worker(0), "relay_updates_received_total", "relay_connections_dropped_total")
    assert found['relay_updates_received_total{kind="plain"}'] == 0
    assert found['relay_updates_received_total{kind="persisted"}'] == 0
    assert found['relay_connections_dropped_total{reason="slow_bytes"}'] == 0
