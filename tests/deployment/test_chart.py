"""The Helm chart, as `make chart` has rendered it for each value set: complete, valid, and the same relay as docker/k8s."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.config import RedisSettings, Settings, load
from relay.profile import require_safe
from release.chart import HELM, RENDERED, digest, value_sets
from tests.deployment.manifests import Resource, resource
from tests.deployment.monitoring import ALERTS, dashboard

SETTINGS = {f"RELAY_{name.upper()}" for name in Settings.model_fields}
SETTINGS |= {f"REDIS_{name.upper()}" for name in RedisSettings.model_fields}

#: What `relay serve` adds to RELAY_GRACEFUL_TIMEOUT.
SUPERVISOR_GRACE = 2.0


def rendered(name: str) -> list[Resource]:
    return [each for each in yaml.safe_load_all((RENDERED / f"{name}.yaml").read_text()) if each]


def one(name: str, kind: str, called: str = "relay") -> Resource:
    (found,) = (each for each in rendered(name) if (each["kind"], each["metadata"]["name"]) == (kind, called))
    return found


def kinds(name: str) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in rendered(name)}


def environment(name: str) -> dict[str, str]:
    """The variables that a relay gets, where the chart makes them."""
    settings: dict[str, str] = dict(one(name, "ConfigMap")["data"])
    if ("Secret", "relay") in kinds(name):
        settings |= one(name, "Secret")["stringData"]
    return settings


@pytest.mark.parametrize("name", value_sets())
def test_it_was_rendered_from_what_is_here(name: str) -> None:
    assert f"# Sources: {digest()}\n" in (RENDERED / f"{name}.yaml").read_text(), "run: make chart"


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_it_has_the_schemas_of_kubernetes(version: str) -> None:
    program = str(Path(sys.executable).parent / "kubernetes-validate")
    files = [str(RENDERED / f"{name}.yaml") for name in value_sets()]
    command = [program, "--strict", "--kubernetes-version", version, *files]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    unknown = re.findall(r"schema for kind (\w+)", run.stdout + run.stderr)
    assert set(unknown) <= {"PodMonitor", "PrometheusRule"}  # of the Prometheus Operator


@pytest.mark.parametrize("name", value_sets())
def test_the_relay_is_that_of_the_kustomization(name: str) -> None:
    """Probes, security, preStop, spreading and volumes have one source; values change the rest."""
    plain, charted = resource("Deployment", "relay")["spec"], one(name, "Deployment")["spec"]
    changed = {"image", "imagePullPolicy", "envFrom", "resources", "ports"}

    def kept(spec: Resource) -> Any:
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        return (
            {key: value for key, value in container.items() if key not in changed},
            {key: value for key, value in pod.items() if key not in ("containers", "terminationGracePeriodSeconds")},
            spec["selector"],
            spec["strategy"],
        )

    assert kept(charted) == kept(plain)
    assert charted["template"]["spec"]["containers"][0]["ports"][0] == {"name": "http", "containerPort": 8000}
    assert ("replicas" in charted) == (("HorizontalPodAutoscaler", "relay") not in kinds(name))


@pytest.mark.parametrize("name", value_sets())
def test_a_pod_is_given_time_to_drain(name: str) -> None:
    pod = one(name, "Deployment")["spec"]["template"]["spec"]
    pause = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    graceful = float(one(name, "ConfigMap")["data"]["RELAY_GRACEFUL_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] > pause + graceful + SUPERVISOR_GRACE


@pytest.mark.parametrize("name", value_sets())
def test_the_relay_accepts_its_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = environment(name)
    assert set(variables) <= SETTINGS
    monkeypatch.chdir(tmp_path)  # where no .env is
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    settings, redis_settings = load()
    if name != "sentinel":  # whose Secret is there already
        assert redis_settings.configured_url()
    if variables.get("RELAY_PROFILE") == "production":
        require_safe(settings, redis_settings)


@pytest.mark.parametrize("name", value_sets())
def test_a_pod_takes_its_variables_from_what_there_is(name: str) -> None:
    (container,) = one(name, "Deployment")["spec"]["template"]["spec"]["containers"]
    secrets = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
    values = yaml.safe_load((HELM / "values" / f"{name}.yaml").read_text())
    assert secrets == [values.get("existingSecret", "relay")]
    assert (("Secret", "relay") in kinds(name)) == ("existingSecret" not in values)
    if values.get("redis", {}).get("bundled", True):
        (redis,) = one(name, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
        assert {each["valueFrom"]["secretKeyRef"]["name"] for each in redis["env"]} == set(secrets)
        assert environment(name)["REDIS_HOST"] == one(name, "Service", "redis")["metadata"]["name"]
    else:
        assert ("StatefulSet", "redis") not in kinds(name)


def test_metrics_have_a_port_of_their_own_in_production() -> None:
    pod = one("grants", "Deployment")["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert environment("grants")["RELAY_ADMIN_BIND"] == f"0.0.0.0:{ports['admin']}"
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["admin"])
    clients, operators = one("grants", "NetworkPolicy")["spec"]["ingress"]
    assert [each["port"] for each in clients["ports"]] == ["http"]
    assert ([each["port"] for each in operators["ports"]], operators["from"]) == (["admin"], [{"podSelector": {}}])


def test_what_each_value_set_shows() -> None:
    metrics = one("large", "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [each["pods"]["metric"]["name"] for each in metrics if each["type"] == "Pods"] == ["relay_connections"]
    assert one("large", "PodMonitor")["spec"]["podMetricsEndpoints"][0]["path"] == "/metrics"
    assert one("large", "PrometheusRule")["spec"] == yaml.safe_load(ALERTS.read_text())
    assert one("large", "PrometheusRule")["metadata"]["labels"]["release"] == "prometheus"
    shown = one("large", "ConfigMap", "relay-dashboard")
    assert json.loads(shown["data"]["relay.json"]) == dashboard()
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert not {"PrometheusRule", "PodMonitor"} & {kind for kind, _ in kinds("default")}
    assert not [each for each in one("default", "HorizontalPodAutoscaler")["spec"]["metrics"] if each["type"] == "Pods"]
    for name in value_sets():
        assert {("PodDisruptionBudget", "relay"), ("NetworkPolicy", "relay"), ("Service", "relay")} <= kinds(name)


def test_ingress_nginx_buffers_nothing_and_waits_for_heartbeats() -> None:
    ingress = one("grants", "Ingress")
    prefix = "nginx.ingress.kubernetes.io/"
    notes = {name.removeprefix(prefix): value for name, value in ingress["metadata"]["annotations"].items()}
    heartbeat = Settings.model_fields["heartbeat_interval"].default
    assert float(notes["proxy-read-timeout"]) >= 2 * heartbeat
    assert notes["proxy-buffering"] == "off"
    assert "http_503" in notes["proxy-next-upstream"]
    paths = {path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert {"/ws/tasks", "/events", "/api"} <= paths
    assert not {"/", "/metrics"} & paths


def test_policies_let_a_relay_reach_redis_and_names_only() -> None:
    for name, port in (("default", "redis"), ("grants", 6380), ("sentinel", 26379)):
        policy = one(name, "NetworkPolicy")["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        ports = {each["port"] for rule in policy["egress"] for each in rule["ports"]}
        assert {53, port} <= ports
        assert not {80, 443} & ports
    assert one("default", "NetworkPolicy", "redis")["spec"]["egress"] == []
