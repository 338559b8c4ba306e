"""docker/compose.yml and docker/k8s, as data."""

import re
from typing import Any

import yaml

from tests.harness import ROOT

COMPOSE = ROOT / "docker" / "compose.yml"
KUSTOMIZATION = ROOT / "docker" / "k8s" / "kustomization.yaml"

Resource = dict[str, Any]


def compose() -> dict[str, Any]:
    """The services with nothing set in the shell: defaults for variables, and no variables that have none."""

    def resolved(value: Any) -> Any:
        match value:
            case dict():
                return {key: resolved(part) for key, part in value.items()}
            case list():
                return [resolved(part) for part in value]
            case str():
                return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
            case _:
                return value

    services: dict[str, Any] = resolved(yaml.safe_load(COMPOSE.read_text())["services"])
    for service in services.values():
        if "environment" in service:
            service["environment"] = {
                name: value for name, value in service["environment"].items() if value is not None
            }
    return services


def variables(name: str) -> dict[str, str]:
    """The lines of a file in docker/k8s that a generator reads."""
    lines = (KUSTOMIZATION.parent / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def kustomization() -> Resource:
    """kustomization.yaml."""
    content: Resource = yaml.safe_load(KUSTOMIZATION.read_text())
    return content


def resources() -> list[Resource]:
    """All that it lists."""
    files = (KUSTOMIZATION.parent / name for name in kustomization()["resources"])
    return [resource for file in files for resource in yaml.safe_load_all(file.read_text())]


def resource(kind: str, name: str) -> Resource:
    """One of them. Raises StopIteration when there is none."""
    return next(found for found in resources() if found["kind"] == kind and found["metadata"]["name"] == name)


def seconds(duration: str) -> float:
    """``1m30s`` of Compose."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|[smh])", duration))
