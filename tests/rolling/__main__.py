"""Roll two relays from an older version to this one and back under load; `tests.rolling` describes the run."""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from release.packages import PYTHON_PACKAGES, build_python
from tests.faults.report import FaultReport
from tests.faults.rig import FaultRig, running
from tests.harness import ROOT

#: Where there is no tag yet: the commit from which on two versions work together.
FIRST = "9d4f9a3"

#: Seconds for git and pip, and seconds of load after each step.
BUILD, HOLD = 120, 3.0


def last_version() -> str:
    """The last tag of a version before this commit, or the first commit that counts."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD)
    return found.stdout.strip() or FIRST


def install(wheels: Path, target: Path) -> Path:
    """Unpack wheels, without what they depend on."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, *map(str, wheels.glob("*.whl"))], check=True, timeout=BUILD)
    return target


def build_older(commit: str, directory: Path) -> Path:
    """Build the wheels of a commit, and install them. Returns the folder to import them from."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True, timeout=BUILD)
    source, wheels = directory / "source", directory / "wheels"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(source, filter="data")
    for folder in PYTHON_PACKAGES:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
        subprocess.run(command, cwd=source / folder, check=True, capture_output=True, timeout=BUILD)
    return install(wheels, directory / "packages")


def build_this(directory: Path) -> Path:
    """The same for the source tree."""
    wheels = directory / "wheels"
    wheels.mkdir(parents=True)
    build_python(wheels)
    return install(wheels, directory / "packages")


def check_import(packages: Path) -> None:
    """Raises AssertionError if a relay that is to use these packages would use others."""
    program = (
        "import relay, relay_wire, relay_client; print(relay.__file__, relay_wire.__file__, relay_client.__file__)"
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=True,
        timeout=BUILD,
    )
    assert all(Path(place).is_relative_to(packages) for place in shown.stdout.split()), shown.stdout


async def roll(rig: FaultRig, which: int, packages: Path) -> None:
    """Replace one relay, as an orchestrator does."""
    relay = rig.relays[which]
    relay.child.terminate()
    status = await trio.to_thread.run_sync(relay.wait)
    if status != 0:
        rig.problem(f"relay {which + 1} ended with status {status}")
    relay.import_from(packages)
    relay.start(wait=False)
    await rig.until_ready(relay)
    rig.report.faults["replaced"] = rig.report.faults.get("replaced", 0) + 1


async def run(directory: Path, older: Path, newer: Path, log: Callable[[str], None]) -> FaultReport:
    """Roll there and back; returns what the clients received."""
    os.environ["PYTHONPATH"] = str(older)  # of the first two relays
    async with running(directory, 1, log) as rig:
        await trio.sleep(HOLD)
        for name, packages in (("this version", newer), ("the older version", older)):
            for which in (0, 1):
                log(f"relay {which + 1} becomes {name}")
                await roll(rig, which, packages)
                await trio.sleep(HOLD)
    return rig.report


def main() -> int:
    """Run it; the exit status is 0 if every update arrived."""
    parser = argparse.ArgumentParser(prog="python -m tests.rolling", description=__doc__)
    parser.add_argument("--since", default=None, metavar="COMMIT", help="default: the last version's tag")
    options = parser.parse_args()
    since = options.since or last_version()
    started = time.monotonic()

    def log(text: str) -> None:
        print(f"{time.monotonic() - started:7.2f}  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="relay-rolling-") as name:
        directory = Path(name)
        older, newer = build_older(since, directory / "older"), build_this(directory / "newer")
        for packages in (older, newer):
            check_import(packages)
        log(f"{since} and this version are built")
        report = trio.run(run, directory, older, newer, log)
    missing = report.plain_published - report.plain_recorded
    print(f"\n{report.table()}\nplain publishes missing  {missing}")
    return 0 if report.passed and not report.problems and not report.gaps_announced and missing <= 0 else 1


sys.exit(main())
