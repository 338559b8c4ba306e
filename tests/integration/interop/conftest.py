"""What Node needs."""

import fcntl
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).parent / "node"


def install_packages() -> None:
    """Install what package-lock.json names. Of several test processes, one installs it and the others wait."""
    lock = NODE / "package-lock.json"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        installed = NODE / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True, timeout=120)


@pytest.fixture(scope="session")
def ws_package() -> None:
    """The `ws` package, as package-lock.json has it."""
    install_packages()
