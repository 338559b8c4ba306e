"""The version: the file VERSION, and the files that must name it, too."""

import re

from release import ROOT

#: Files that cannot read VERSION, and what stands before the version in each, as a pattern.
MENTIONS = {
    "clients/js/package.json": r'"name": "@trio-relay/client",\n\s*"version": "',
    "clients/js/package-lock.json": r'"name": "@trio-relay/client",\n\s*"version": "',
    "docker/k8s/kustomization.yaml": r'newTag: "',
    "docker/helm/relay/Chart.yaml": r"(?m:^(?:version: |appVersion: \"))",
    "docs/deploy.md": r"registry\.example\.com/trio-relay:",
}

_VERSION = r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?"


def current() -> str:
    """Return the version of this source tree."""
    return (ROOT / "VERSION").read_text().strip()


def mentioned() -> dict[str, set[str]]:
    """Return the versions that each file of MENTIONS has."""
    return {
        name: set(re.findall(f"{before}({_VERSION})", (ROOT / name).read_text())) for name, before in MENTIONS.items()
    }


def write(version: str) -> None:
    """Write another version into VERSION and the files of MENTIONS. Raises SystemExit if it is none."""
    if not re.fullmatch(_VERSION, version):
        raise SystemExit(f"{version!r} is not a version such as 1.2.3 or 1.2.3rc1")
    (ROOT / "VERSION").write_text(f"{version}\n")
    for name, before in MENTIONS.items():
        path = ROOT / name
        path.write_text(re.sub(f"({before}){_VERSION}", rf"\g<1>{version}", path.read_text()))
