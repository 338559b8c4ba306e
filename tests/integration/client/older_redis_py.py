"""Older versions of redis-py, which applications have pinned: each in a directory of its own."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT

#: The oldest that the client works with, and those that others pin: Celery 5.7 takes 6.4 at most.
VERSIONS = ("5.3.0", "6.4.0")


def older_redis_py(version: str) -> Path:
    """Return a directory for PYTHONPATH; installs it first, unless it is there."""
    directory = ROOT / ".redis-py" / version
    directory.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / f"redis-{version}.dist-info" / "RECORD").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--target", str(directory), f"redis=={version}"], check=True, timeout=120)
    return directory


def environ_with(version: str) -> dict[str, str]:
    """Return the environment of a program that is to use it."""
    return {**os.environ, "PYTHONPATH": str(older_redis_py(version))}


def check_version(version: str) -> None:
    """Fail unless a program with that environment uses it."""
    shown = subprocess.run(
        [sys.executable, "-c", "import redis, relay_client; print(redis.__version__)"],
        env=environ_with(version), check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    assert shown.strip() == version
