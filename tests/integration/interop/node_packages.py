"""Packages of npm as a package-lock.json has them, and the package that clients/js is."""

import fcntl
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import ROOT

CLIENT = ROOT / "clients" / "js"


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Of several test processes one is here, and the others wait."""
    with (directory / "package-lock.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(directory: Path) -> None:
    lock = directory / "package-lock.json"
    installed = directory / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=directory, check=True, timeout=240)


def install_node_packages(directory: Path) -> None:
    """Install what package-lock.json names, unless it is there."""
    with _alone(directory):
        _install(directory)


def compile_client() -> None:
    """Build dist/ of clients/js, unless it is newer than its sources. This compiles them."""
    with _alone(CLIENT):
        _install(CLIENT)
        sources = [CLIENT / "package.json", CLIENT / "build.mjs", CLIENT / "tsconfig.json", *CLIENT.glob("src/**/*.ts")]
        built = CLIENT / "dist" / "bundles" / "relay.js"  # which is made last
        if built.exists() and built.stat().st_mtime > max(path.stat().st_mtime for path in sources):
            return
        done = subprocess.run(
            ["node", "build.mjs", "--package"], cwd=CLIENT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr


def install_packed_client(project: Path) -> Path:
    """Install the package of clients/js into a project, as npm would publish it. Returns its directory."""
    compile_client()
    pack = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(project)]
    name = subprocess.run(pack, cwd=CLIENT, check=True, capture_output=True, text=True, timeout=60).stdout.split()[-1]
    scope = project / "node_modules" / "@trio-relay"
    scope.mkdir(parents=True)
    with tarfile.open(project / name) as archive:
        archive.extractall(scope, filter="data")
    return (scope / "package").rename(scope / "client")
