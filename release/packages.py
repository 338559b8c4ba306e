"""Wheels and sdists of the Python packages, and the tarball of the npm package, byte by byte the same at each build."""

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from contextlib import chdir
from pathlib import Path

import hatchling.build

from release import ROOT
from release.version import current

#: The folders of the Python packages, each after those that it depends on.
PYTHON_PACKAGES = ("clients/wire", "clients/python", "clients/jobs", ".")
NPM_PACKAGE = "clients/js"

#: Seconds for one build step.
_TIMEOUT = 300


def set_source_date() -> None:
    """Set SOURCE_DATE_EPOCH, which the times in the packages come from, to the time of the last commit.

    A given one stays. Outside of a repository the build backend has a fixed one.
    """
    command = ["git", "log", "-1", "--format=%ct"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT)
    if asked.returncode == 0:
        os.environ.setdefault("SOURCE_DATE_EPOCH", asked.stdout.strip())


def build_python(directory: Path, folders: tuple[str, ...] = PYTHON_PACKAGES) -> None:
    """Build an sdist of each package, and its wheel out of the sdist, which shows that the sdist is complete."""
    for folder in folders:
        with chdir(ROOT / folder):
            sdist = hatchling.build.build_sdist(str(directory))
        with tempfile.TemporaryDirectory(prefix="relay-release-") as unpacked:
            with tarfile.open(directory / sdist) as archive:
                archive.extractall(unpacked, filter="data")
            (source,) = Path(unpacked).iterdir()
            with chdir(source):
                hatchling.build.build_wheel(str(directory))


def build_npm(directory: Path) -> Path:
    """Compile and pack the browser package; return its tarball. It needs node_modules: `npm ci` in its folder."""
    folder = ROOT / NPM_PACKAGE
    version = json.loads((folder / "package.json").read_text())["version"]
    if version != current():
        raise SystemExit(
            f"{NPM_PACKAGE}/package.json has version {version}: run `python -m release version {current()}`"
        )
    command = ["npm", "pack", "--silent", "--pack-destination", str(directory)]
    packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_TIMEOUT)
    return directory / packed.stdout.split()[-1]


def write_checksums(directory: Path) -> None:
    """List the SHA-256 of each file, as `sha256sum --check` reads it."""
    files = sorted(path for path in directory.iterdir() if path.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (directory / "SHA256SUMS").write_text("".join(lines))
