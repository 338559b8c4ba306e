"""docker/ is valid, and its parts fit each other. That they run: tests/integration/deployment/test_containers.py."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from relay_jobs import command as worker_command
from relay_jobs.settings import WorkerSettings

from relay.config import Settings
from tests.deployment.containers import DOCKERFILE
from tests.deployment.dockerfile import is_ignored, read_stages
from tests.deployment.manifests import (
    COMPOSE,
    KUSTOMIZATION,
    Resource,
    compose,
    kustomization,
    resource,
    resources,
    seconds,
    variables,
)
from tests.harness import ROOT

DOCKER = ROOT / "docker"
NGINX = (DOCKER / "nginx.conf").read_text()
#: Without what is no YAML yet, and what helm has written.
YAML_RULES = (
    "{extends: default, rules: {document-start: disable, line-length: {max: 128}}, ignore: [templates/, rendered/]}"
)

SETTINGS = {f"RELAY_{name.upper()}" for name in Settings.model_fields}

#: `relay serve --workers` waits so much longer for its workers than RELAY_GRACEFUL_TIMEOUT.
SUPERVISOR_GRACE = 2.0

WORKLOADS = [item for item in resources() if item["kind"] in ("Deployment", "StatefulSet")]


def succeeds(*command: str | Path) -> None:
    """Run a linter of the tests' environment."""
    program, *arguments = map(str, command)
    run = subprocess.run(
        [Path(sys.executable).parent / program, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert run.returncode == 0, run.stdout + run.stderr


def described(item: Resource) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


# --- linters and schemas


def test_dockerfile_passes_hadolint() -> None:
    succeeds("hadolint", DOCKERFILE)


def test_the_autoscaler_says_what_it_needs() -> None:
    assert "metrics-server" in (DOCKER / "k8s" / "relay-hpa.yaml").read_text()


def test_yaml_passes_yamllint() -> None:
    succeeds("yamllint", "--strict", "-d", YAML_RULES, DOCKER)


def test_compose_file_has_the_schema_of_compose() -> None:
    succeeds("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_manifests_have_the_schemas_of_kubernetes(version: str) -> None:
    files = [KUSTOMIZATION.parent / name for name in kustomization()["resources"]]
    succeeds("kubernetes-validate", "--strict", "--kubernetes-version", version, *files)


# --- the image


def test_context_has_what_the_dockerfile_copies_and_no_secrets() -> None:
    ignore_file = ROOT / ".dockerignore"
    copied = [
        source
        for stage in read_stages(DOCKERFILE)
        for value in stage.values("COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert not is_ignored(source, ignore_file), source
    for name in (
        ".env",
        ".git/config",
        ".venv/bin/python",
        "docker/k8s/redis-secret.env",
        "tests/x.py",
        "clients/js/a.js",
    ):
        assert is_ignored(name, ignore_file), name
    assert is_ignored("relay/core/__pycache__/hub.cpython-313.pyc", ignore_file)
    assert not is_ignored("relay/broker/read.lua", ignore_file)


def test_image_is_not_root_and_answers_where_it_says() -> None:
    *_, stage = read_stages(DOCKERFILE)
    user, group = stage.last("USER").split(":")
    assert int(user) > 0 and int(group) > 0  # noqa: PT018 - numbers, as runAsNonRoot wants them
    environ = stage.environment()
    assert environ["RELAY_HOST"] == "0.0.0.0"
    assert environ["RELAY_PORT"] == stage.last("EXPOSE") == "8000"
    assert {name for name in environ if name.startswith("RELAY_")} <= {
        f"RELAY_{name.upper()}" for name in Settings.model_fields
    }
    assert stage.command() == ["relay", "serve"]


# --- Compose


@pytest.mark.parametrize("name", compose())
def test_service_is_confined(name: str) -> None:
    service = compose()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    # Our own image has a user; the others' have root.
    assert "build" in service or int(service["user"].split(":")[0]) > 0


def test_services_refer_to_what_there_is() -> None:
    services = compose()
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert services[other].get("healthcheck", {}).get("test"), other
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (COMPOSE.parent / source).exists() if source.startswith(".") else source in volumes
    assert services["redis"]["healthcheck"]["interval"] == "30s"
    assert all(service["profiles"] == ["workers"] for name, service in services.items() if name.startswith("worker-"))


def test_only_loopback_is_published_unless_asked_for() -> None:
    published = [port for service in compose().values() for port in service.get("ports", [])]
    monitoring = ["127.0.0.1:9090:9090", "127.0.0.1:3000:3000"]
    assert published == ["127.0.0.1:6379:6379", "127.0.0.1:8000:8080", *monitoring]


@pytest.mark.parametrize("name", ["relay-1", "relay-2"])
def test_container_is_given_time_to_drain(name: str) -> None:
    service = compose()[name]
    graceful = float(service["environment"]["RELAY_GRACEFUL_TIMEOUT"])
    assert seconds(service["stop_grace_period"]) > graceful + SUPERVISOR_GRACE


@pytest.mark.parametrize("name", ["worker-commission", "worker-pipeline"])
def test_worker_is_given_time_to_hand_over(name: str) -> None:
    needed = WorkerSettings().grace + worker_command._BEYOND_GRACE
    assert seconds(compose()[name]["stop_grace_period"]) > needed
    assert resource("Deployment", name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed


def _is_of_grafana(variable: str) -> bool:
    return variable.startswith("GF_")


def test_what_compose_passes_on_are_settings() -> None:
    for name, service in yaml.safe_load(COMPOSE.read_text())["services"].items():
        passed_on = set(service.get("environment", {}))
        assert passed_on <= SETTINGS | {"REDIS_URL"} or (name == "grafana" and all(map(_is_of_grafana, passed_on)))


# --- nginx


def test_nginx_sends_clients_to_every_relay() -> None:
    relays = {f"{name}:8000" for name in compose() if name.startswith("relay-")}
    assert set(re.findall(r"^ +server (\S+:\d+) ", NGINX, re.MULTILINE)) == relays
    assert set(compose()["nginx"]["depends_on"]) == {relay.split(":")[0] for relay in relays}
    assert re.findall(r"listen (\d+);", NGINX) == [compose()["nginx"]["ports"][0].rpartition(":")[2]]


def test_nginx_waits_for_more_than_one_heartbeat() -> None:
    heartbeat = Settings.model_fields["heartbeat_interval"].default
    for direction in ("read", "send"):
        (timeout,) = re.findall(rf"proxy_{direction}_timeout (\w+);", NGINX)
        assert seconds(timeout) >= 2 * heartbeat + Settings.model_fields["dead_peer_timeout"].default


def test_nginx_has_connections_for_all_clients() -> None:
    (connections,) = re.findall(r"worker_connections (\d+);", NGINX)
    (files,) = re.findall(r"worker_rlimit_nofile (\d+);", NGINX)
    clients = Settings.model_fields["max_clients"].default
    # In each of its worker processes: with two cores that is the two for each client of one relay, and more.
    assert int(connections) > clients
    assert int(files) >= int(connections)
    assert compose()["nginx"]["ulimits"]["nofile"] >= int(files)
    assert compose()["relay-1"]["ulimits"]["nofile"] > clients


# --- Kubernetes


def test_kustomization_lists_every_file() -> None:
    content = kustomization()
    listed = {"kustomization.yaml", *content["resources"]}
    listed |= {
        name for kind in ("configMapGenerator", "secretGenerator") for item in content[kind] for name in item["envs"]
    }
    assert listed == {path.name for path in KUSTOMIZATION.parent.iterdir()}
    names = [described(item) for item in resources()]
    assert len(names) == len(set(names))


def labels_match(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    wanted: dict[str, str] = selector["matchLabels"]
    return wanted.items() <= labels.items()


def pod_labels(workload: Resource) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(workload: Resource) -> list[Resource]:
    found: list[Resource] = workload["spec"]["template"]["spec"]["containers"]
    return found


def selected(selector: dict[str, Any]) -> list[str]:
    """The workloads whose pods a selector takes."""
    return [described(workload) for workload in WORKLOADS if labels_match(selector, pod_labels(workload))]


@pytest.mark.parametrize("workload", WORKLOADS, ids=described)
def test_workload_selects_its_own_pods(workload: Resource) -> None:
    assert selected(workload["spec"]["selector"]) == [described(workload)]


def test_services_and_policies_select_what_they_are_for() -> None:
    for kind, name, expected in (
        ("Service", "relay", ["Deployment relay"]),
        ("Service", "redis", ["StatefulSet redis"]),
    ):
        assert selected({"matchLabels": resource(kind, name)["spec"]["selector"]}) == expected
    assert selected(resource("PodDisruptionBudget", "relay")["spec"]["selector"]) == ["Deployment relay"]
    target = resource("HorizontalPodAutoscaler", "relay")["spec"]["scaleTargetRef"]
    assert resource(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    assert "replicas" not in resource("Deployment", "relay")["spec"]  # or every apply would undo the autoscaler's work
    assert resource("StatefulSet", "redis")["spec"]["serviceName"] == "redis"


def test_only_relays_and_workers_reach_redis() -> None:
    policy = resource("NetworkPolicy", "redis")["spec"]
    assert selected(policy["podSelector"]) == ["StatefulSet redis"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policy["ingress"]
    (peer,), (port,) = rule["from"], rule["ports"]
    assert set(peer) == {"podSelector"}  # of this namespace
    assert sorted(selected(peer["podSelector"])) == sorted(
        described(workload) for workload in WORKLOADS if described(workload) != "StatefulSet redis"
    )
    assert port["port"] == "redis"
    assert policy["egress"] == []


def ports_of(selector: dict[str, str]) -> dict[str, int]:
    (workload,) = (item for item in WORKLOADS if selector.items() <= pod_labels(item).items())
    return {port["name"]: port["containerPort"] for item in containers(workload) for port in item.get("ports", [])}


def test_ports_fit() -> None:
    image_port = int(read_stages(DOCKERFILE)[-1].last("EXPOSE"))
    for name, number in (("relay", image_port), ("redis", int(variables("relay.env")["REDIS_PORT"]))):
        service = resource("Service", name)["spec"]
        ports = ports_of(service["selector"])
        assert list(ports.values()) == [number]
        assert [port["targetPort"] for port in service["ports"]] == list(ports)
    annotations = resource("Deployment", "relay")["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == image_port
    assert resource("Service", variables("relay.env")["REDIS_HOST"])["spec"]["ports"][0]["port"] == 6379


def references(value: Any) -> Iterator[tuple[str, str]]:
    """What a manifest takes from elsewhere, by kind and name."""
    kinds = {
        "configMapRef": "ConfigMap",
        "secretRef": "Secret",
        "configMapKeyRef": "ConfigMap",
        "secretKeyRef": "Secret",
    }
    if isinstance(value, dict):
        for key, part in value.items():
            if key in kinds:
                if not part.get("optional", False):  # or it is the operator's to make
                    yield kinds[key], part["name"]
                assert part.get("key", "REDIS_PASSWORD") in variables("redis-secret.env")
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


@pytest.mark.parametrize("workload", WORKLOADS, ids=described)
def test_workload_finds_its_settings_and_volumes(workload: Resource) -> None:
    content = kustomization()
    generated = {("ConfigMap", item["name"]) for item in content["configMapGenerator"]}
    generated |= {("Secret", item["name"]) for item in content["secretGenerator"]}
    assert set(references(workload)) <= generated
    spec = workload["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    assert {mount["name"] for item in containers(workload) for mount in item["volumeMounts"]} == volumes
    images = {image["name"] for image in content["images"]} | {compose()["redis"]["image"]}
    assert {item["image"] for item in containers(workload)} <= images


@pytest.mark.parametrize("workload", WORKLOADS, ids=described)
def test_pod_keeps_to_the_restricted_standard(workload: Resource) -> None:
    """And has limits, a read-only root, and no variables of Services, which would be taken for settings."""
    spec = workload["spec"]["template"]["spec"]
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for limit in ("cpu", "memory"):
            assert container["resources"]["requests"][limit]
            assert container["resources"]["limits"][limit]
    assert resource("Namespace", "relay")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert kustomization()["namespace"] == "relay"


def test_relay_pod_is_given_time_to_drain() -> None:
    spec = resource("Deployment", "relay")["spec"]["template"]["spec"]
    (relay,) = spec["containers"]
    name, pause = relay["lifecycle"]["preStop"]["exec"]["command"]
    assert name == "sleep"
    graceful = float(variables("relay.env")["RELAY_GRACEFUL_TIMEOUT"])
    assert spec["terminationGracePeriodSeconds"] > float(pause) + graceful + SUPERVISOR_GRACE
    # By then the pod must be out of the Service.
    readiness = relay["readinessProbe"]
    assert float(pause) > readiness["periodSeconds"] * readiness["failureThreshold"]


def test_settings_in_kubernetes_are_settings() -> None:
    names = SETTINGS | {"REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"}
    assert set(variables("relay.env")) | set(variables("redis-secret.env")) <= names


def test_redis_has_room_above_its_maxmemory() -> None:
    (container,) = containers(resource("StatefulSet", "redis"))
    (megabytes,) = re.findall(r"--maxmemory (\d+)mb", container["command"][-1])
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert int(megabytes) <= 1024 * 0.6
    assert container["resources"]["requests"]["memory"] == "640Mi"
