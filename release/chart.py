"""The Helm chart, rendered with each of its value sets into docker/helm/rendered, where the tests read and validate it."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from release import ROOT

HELM = ROOT / "docker" / "helm"
CHART = HELM / "relay"
RENDERED = HELM / "rendered"

#: Seconds for one call of helm.
_TIMEOUT = 120

#: The Kubernetes that the chart is rendered for. The tests validate the result against the schemas of several.
_KUBERNETES = "1.31"


def value_sets() -> list[str]:
    """Return the names of the value sets."""
    return sorted(path.stem for path in (HELM / "values").glob("*.yaml"))


def digest() -> str:
    """Return a digest of all that the rendered files come from: the chart, what it reads beside it, and the value sets."""
    linked = {"k8s", "prometheus", "grafana"}
    sources = [path for path in CHART.rglob("*") if not linked & set(path.relative_to(CHART).parts)]
    sources += [*(ROOT / "docker" / "k8s").glob("*.yaml"), *(HELM / "values").glob("*.yaml")]
    sources += [ROOT / "docker" / "prometheus" / "alerts.yml", ROOT / "docker" / "grafana" / "relay.json"]
    found = hashlib.sha256()
    for path in sorted(path for path in sources if path.is_file()):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def _helm(program: str, *arguments: str | Path) -> str:
    run = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=_TIMEOUT)
    if run.returncode != 0:
        raise SystemExit(run.stdout + run.stderr)
    return run.stdout


def render() -> None:
    """Lint the chart and render it with each value set. Raises SystemExit if helm is missing or refuses."""
    program = shutil.which("helm") or shutil.which("helm", path=str(Path.home() / "go" / "bin"))
    if program is None:
        raise SystemExit("helm is missing. Install it: go install helm.sh/helm/v3/cmd/helm@latest")
    for name in value_sets():
        values = HELM / "values" / f"{name}.yaml"
        _helm(program, "lint", "--strict", CHART, "--kube-version", _KUBERNETES, "--values", values)
        options: list[str | Path] = ["--kube-version", _KUBERNETES, "--namespace", "relay", "--values", values]
        manifests = _helm(program, "template", "relay", CHART, *options)
        header = f"# `make chart` has made this with docker/helm/values/{name}.yaml.\n# Sources: {digest()}\n"
        (RENDERED / f"{name}.yaml").write_text(header + manifests)
