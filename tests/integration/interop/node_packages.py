"""Packages of npm, as a package-lock.json has them."""

import fcntl
import subprocess
from pathlib import Path


def install_node_packages(directory: Path) -> None:
    """Install what package-lock.json names, unless it is there. Of several test processes one does, and the others wait."""
    lock = directory / "package-lock.json"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        installed = directory / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=directory, check=True, timeout=240)
