"""A relay with grants, where the packages for them are not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay.broker.embedded import free_port
from tests.harness import PATIENCE, RedisServer


@pytest.mark.parametrize(
    "server",
    [["relay.cli", "serve", "--port"], ["hypercorn", "-w", "0", "-k", "trio", "relay.asgi:app", "-b"]],
    ids=["serve", "hypercorn"],
)
def test_the_error_says_what_to_install(server: list[str], redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "httpx.py").write_text("raise ModuleNotFoundError(name=__name__)")
    environ = {
        **os.environ, "PYTHONPATH": str(tmp_path), "REDIS_URL": redis_server.url, "RELAY_JWT_SECRET": "0123456789" * 4,
    }  # fmt: skip
    address = str(free_port()) if "serve" in server else f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", *server, address]
    ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode != 0
    printed = ended.stdout + ended.stderr
    assert (
        "Grants are configured, and the package httpx is not installed. Run: pip install 'trio-relay[grants]'"
        in printed
    )
    if "serve" in server:
        assert ended.returncode == 2
        assert "Traceback" not in printed
        assert "starting" not in printed
