"""Brokers other than Redis, as Debian has them: PostgreSQL and RabbitMQ, each on a free port with files of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.processes import start_child
from tests.harness import eventually
from tests.ports import free_port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _postgresql(name: str) -> str:
    """A program of PostgreSQL, which Debian keeps out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name) or name


@contextmanager
def postgresql(directory: Path) -> Iterator[str]:
    """Run PostgreSQL; it refuses to be root. Yields its URL."""
    user = "nobody" if getpass.getuser() == "root" else None
    home = None if user else directory  # nobody may not look into the directories of tests
    data, port = Path(tempfile.mkdtemp(prefix="story-", dir=home)), free_port()
    if user:
        shutil.chown(data, user)
    make = [_postgresql("initdb"), "--auth=trust", "--username=story", "--no-sync", "-D", str(data)]
    try:
        subprocess.run(make, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")
        run = [_postgresql("postgres"), "-D", str(data), "-p", str(port), "-k", "", "-F", "-h", "127.0.0.1"]
        with (directory / "postgresql.log").open("ab") as log:
            server = subprocess.Popen(run, user=user, stdout=log, stderr=log, cwd="/")
        try:
            eventually(lambda: _accepts(port))
            yield f"postgresql://story@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(60)
    finally:
        shutil.rmtree(data)


@contextmanager
def rabbitmq(directory: Path) -> Iterator[str]:
    """Run RabbitMQ, with an epmd of its own. Yields its URL."""
    port, epmd_port = free_port(), free_port()
    environ = {
        **os.environ,
        "HOME": str(directory),
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": f"story{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_PID_FILE": str(directory / "rabbitmq.pid"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
    }
    with (directory / "rabbitmq.out").open("ab") as log:
        server = start_child(
            ["/usr/lib/rabbitmq/bin/rabbitmq-server"], env=environ, stdout=log, stderr=log, cwd=directory
        )
    try:
        eventually(lambda: _accepts(port))
        yield f"amqp://guest:guest@127.0.0.1:{port}/%2F"
    finally:
        server.terminate()
        server.wait(60)
        subprocess.run(["epmd", "-port", str(epmd_port), "-kill"], check=False, stdout=subprocess.DEVNULL)
