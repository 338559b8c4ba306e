"""The services of docker/compose.yml as processes, each on a port of its own."""

import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from websockets.sync.client import connect

from relay.broker.embedded import server_binary
from relay.processes import start_child
from tests.deployment.containers import Container, Image, has_namespaces
from tests.deployment.manifests import compose
from tests.harness import PATIENCE, ROOT, Client, RedisServer, Server
from tests.ports import free_port


def http(port: int, path: str) -> tuple[int, str]:
    """A GET; status 0 means that nobody answered."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Relay(Container):
    """A relay."""

    name = "relay"

    def __init__(self, image: Image, directory: Path, environ: Mapping[str, str]) -> None:
        self.port = free_port()
        super().__init__(image, directory, {**environ, "RELAY_PORT": str(self.port)})

    def is_ready(self) -> bool:
        assert self.child.poll() is None, self.logged()
        return http(self.port, "/readyz")[0] == 200

    def metric(self, line: str) -> float:
        """The value of a metric, given with its labels; 0 when it is not there yet."""
        lines = (text.rpartition(" ") for text in http(self.port, "/metrics")[1].splitlines())
        return next((float(value) for name, _, value in lines if name == line), 0.0)

    def clients(self) -> float:
        """How many are on sockets that it took over."""
        return self.metric('relay_connections{transport="hijacked"}')


class Nginx(Container):
    """nginx with docker/nginx.conf before relays."""

    name = "nginx"

    def __init__(self, image: Image, directory: Path, relays: list[Relay]) -> None:
        self.port = free_port()
        content = (ROOT / "docker" / "nginx.conf").read_text()
        replaced = {"listen 8080;": f"listen 127.0.0.1:{self.port};"}
        replaced |= {f"server relay-{n}:8000 ": f"server 127.0.0.1:{relay.port} " for n, relay in enumerate(relays, 1)}
        if not has_namespaces():
            replaced |= {" /tmp/": f" {directory}/"}
        for old, new in replaced.items():
            assert old in content
            content = content.replace(old, new)
        image.path("/opt/nginx.conf").write_text(content)
        command = ["nginx", "-e", "stderr", "-c", "/opt/nginx.conf", "-g", "daemon off;"]
        super().__init__(image, directory, {}, command, user=compose()["nginx"]["user"])

    def is_ready(self) -> bool:
        assert self.child.poll() is None, self.logged()
        return http(self.port, "/healthz")[0] == 200

    @contextmanager
    def client(self, *task_ids: str) -> Iterator[Client]:
        """A client on /ws/tasks, subscribed to tasks."""
        with connect(f"ws://127.0.0.1:{self.port}/ws/tasks", open_timeout=PATIENCE) as connection:
            client = Client(connection)
            for task_id in task_ids:
                client.subscribe(task_id)
            yield client


@dataclass
class Stack:
    """All of them but the workers."""

    image: Image
    redis: RedisServer
    relays: list[Relay]
    nginx: Nginx


def environment(service: str, redis: RedisServer) -> dict[str, str]:
    """What compose.yml gives a service, with Redis where it is."""
    environ: dict[str, str] = compose()[service]["environment"]
    return {name: value.replace("redis:6379", f"127.0.0.1:{redis.port}") for name, value in environ.items()}


@contextmanager
def running_stack(image: Image, directory: Path) -> Iterator[Stack]:
    """Start them as compose.yml says, in its order."""
    with ExitStack() as stack:
        (directory / "redis").mkdir()
        program, *options = compose()["redis"]["command"]
        assert program == "redis-server"
        redis = stack.enter_context(RedisServer(directory / "redis", *options))
        relays = [
            stack.enter_context(Relay(image, directory / name, environment(name, redis)))
            for name in ("relay-1", "relay-2")
        ]
        yield Stack(image, redis, relays, stack.enter_context(Nginx(image, directory / "nginx", relays)))


def redis_commands(directory: Path, port: int) -> str:
    """A PATH on which redis-server and redis-cli are those at hand, on this port."""
    directory.mkdir()
    client = subprocess.run(["which", "redis-cli"], capture_output=True, text=True, check=True).stdout.strip()
    for name, line in (
        ("redis-server", f'{server_binary()} "$@" --bind 127.0.0.1 --port {port}'),
        ("redis-cli", f'{client} -p {port} "$@"'),
    ):
        (directory / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (directory / name).chmod(0o755)
    return f"{directory}:{os.defpath}"


class ShellCommand(Server):
    """A command with nothing but the given environment."""

    name = "command"

    def __init__(self, directory: Path, command: list[str], environ: Mapping[str, str]) -> None:
        super().__init__(directory)
        with self.log.open("ab") as log:
            self._child = start_child(command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
