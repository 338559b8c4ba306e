"""The containers of docker/compose.yml and docker/k8s, each command line for real: see tests/deployment/containers.py."""

import json
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from relay_jobs.manager import TaskManager
from websockets.exceptions import ConnectionClosed

from tests.deployment.containers import Container, Image, has_namespaces
from tests.deployment.manifests import compose, resource, seconds, variables
from tests.deployment.services import (
    Nginx,
    Relay,
    ShellCommand,
    Stack,
    environment,
    http,
    redis_commands,
    running_stack,
)
from tests.harness import PATIENCE, ROOT, Client, eventually
from tests.ports import free_port

#: Their kinds of tasks, with parameters that make them short.
WORKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "worker-commission": ("commission", {"subreddit": "golf", "seconds": 0.2}),
    "worker-pipeline": ("pipeline", {"records": 4, "seconds": 0.2}),
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def stack(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(image, tmp_path_factory.mktemp("stack")) as services:
        yield services


def test_image_has_both_distributions_and_takes_nothing_from_the_checkout(image: Image) -> None:
    shown = image.execute(["python", "-c", "import relay, relay_client; print(relay.__file__, relay_client.__file__)"])
    expected = image.mapped("/opt/relay/lib/python")
    assert [Path(place).is_relative_to(Path(expected).parent) for place in shown.stdout.split()] == [True, True], shown
    assert image.execute(["relay", "version"]).returncode == 0
    assert image.path("/opt/relay/bin/relay-worker").exists()
    # The wheel has the files for browsers.
    served = Path(shown.stdout.split()[0]).parent / "server" / "static"
    for file in (ROOT / "relay" / "server" / "static").iterdir():
        assert image.execute(["cat", str(served / file.name)]).stdout == file.read_text()
    copied = {path.name for path in image.path("/opt/build").iterdir()}
    assert copied == {"pyproject.toml", "VERSION", "README.md", "CHANGELOG.md", "LICENSE", "relay", "clients"}
    assert not list(image.path("/opt/build").rglob("__pycache__"))


@pytest.mark.skipif(not has_namespaces(), reason="the kernel does not let us have mounts of our own")
def test_containers_are_not_root_and_write_only_to_tmp(image: Image) -> None:
    attempts = "id -u; touch /tmp/yes && echo tmp; touch /no /opt/no /opt/relay/no /var/tmp/no && echo elsewhere; true"
    assert image.execute(["sh", "-c", attempts]).stdout.split() == [image.stage.last("USER").split(":")[0], "tmp"]
    status = image.execute(["cat", "/proc/self/status"]).stdout
    assert len(re.findall(r"^Cap(?:Eff|Bnd|Prm):\s+0+$", status, re.MULTILINE)) == 3
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_redis_is_bounded_evicts_nothing_and_keeps_its_data(stack: Stack) -> None:
    with stack.redis.client() as client:
        settings = client.config_get("maxmemory*") | client.config_get("append*")
    assert settings["maxmemory"] == str(256 << 20)
    assert (settings["maxmemory-policy"], settings["appendonly"], settings["appendfsync"]) == (
        "noeviction",
        "yes",
        "everysec",
    )


def test_redis_health_check(stack: Stack, tmp_path: Path) -> None:
    kind, line = compose()["redis"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    environ = {"PATH": redis_commands(tmp_path / "bin", stack.redis.port)}

    def status() -> int:
        return subprocess.run(["sh", "-c", line], env=environ, capture_output=True, timeout=PATIENCE).returncode

    assert status() == 0
    with stack.redis.client() as client:
        client.config_set("requirepass", "x")  # any answer but PONG
        try:
            assert status() != 0
        finally:
            client.config_set("requirepass", "")


def test_relay_health_check(stack: Stack) -> None:
    kind, *command = compose()["relay-1"]["healthcheck"]["test"]
    relay = stack.relays[0]
    assert (kind, command) == ("CMD", stack.image.stage.healthcheck())
    well = relay.execute(command)
    assert (well.returncode, well.stderr) == (0, "")
    assert relay.execute([*command, "/readyz"]).returncode == 0
    assert "answers 404" in relay.execute([*command, "/nowhere"]).stderr
    relay.freeze()
    started = time.monotonic()
    try:
        frozen = relay.execute(command)
    finally:
        relay.thaw()
    assert frozen.returncode == 1
    assert "timed out" in frozen.stderr
    assert time.monotonic() - started < seconds(compose()["relay-1"]["healthcheck"]["timeout"])


def test_update_reaches_clients_of_both_relays_through_nginx(stack: Stack) -> None:
    with stack.nginx.client("w") as a, stack.nginx.client("w") as b, stack.nginx.client("w") as c:
        eventually(lambda: all(relay.clients() for relay in stack.relays))
        stack.redis.publish_task("w", progress=40)
        for client in (a, b, c):
            assert client.receive() == {"type": "task_update", "task_id": "w", "data": {"progress": 40}}
    eventually(lambda: not any(relay.clients() for relay in stack.relays))


def test_events_come_through_nginx_at_once(stack: Stack) -> None:
    url = f"http://127.0.0.1:{stack.nginx.port}/events?task=e"
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        eventually(lambda: sum(relay.metric("relay_subscriptions") for relay in stack.relays) == 1)
        for progress in (1, 2):
            stack.redis.publish_task("e", progress=progress)
            data = next(line for line in response if line.startswith(b"data:"))
            assert json.loads(data.removeprefix(b"data:"))["data"] == {"progress": progress}


def test_while_redis_is_away_nginx_still_lets_clients_through(stack: Stack) -> None:
    port = stack.nginx.port
    stack.redis.freeze()
    try:
        eventually(lambda: all(http(port, "/readyz")[0] == 503 for _ in range(6)))  # both relays
        for _ in range(4):
            assert http(port, "/readyz")[0] == 503
            assert http(port, "/healthz")[0] == 200
            with stack.nginx.client():
                pass
    finally:
        stack.redis.thaw()
    eventually(lambda: http(port, "/readyz")[0] == 200)


def test_tasks_are_listed_and_beat_through_nginx(stack: Stack) -> None:
    stack.redis.publish_task("listed", status="in_progress")
    eventually(lambda: http(stack.nginx.port, "/api/tasks/listed")[0] == 200)
    assert "listed" in http(stack.nginx.port, "/api/tasks?status=in_progress")[1]
    beat = urllib.request.Request(f"http://127.0.0.1:{stack.nginx.port}/api/tasks/listed/heartbeat", method="POST")
    with urllib.request.urlopen(beat, timeout=PATIENCE) as response:
        assert response.status == 204


@pytest.mark.parametrize(
    "path", ["/metrics", "//metrics", "/api/../metrics", "/api/%2e%2e/metrics", "/metrics/", "/none"]
)
def test_nginx_lets_only_clients_paths_through(path: str, stack: Stack) -> None:
    assert http(stack.relays[0].port, "/metrics")[0] == 200
    assert http(stack.nginx.port, path)[0] == 404


@pytest.mark.parametrize(
    "path", ["/", "/relay.js", "/relay-client.js", "/relay-page.js", "/relay-page.css", "/relay-icon.svg"]
)
def test_the_page_and_scripts_come_through_nginx(path: str, stack: Stack) -> None:
    assert http(stack.nginx.port, path)[0] == 200


@pytest.fixture(scope="module")
def http2(image: Image, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Nginx]]:
    """A relay that would upgrade to HTTP/2 without TLS, and nginx before it."""
    directory = tmp_path_factory.mktemp("http2")
    environ = {**environment("relay-1", stack.redis), "RELAY_CLEARTEXT_HTTP2": "true"}
    with (
        Relay(image, directory / "relay", environ) as relay,
        Nginx(image, directory / "nginx", [relay, relay]) as nginx,
    ):
        yield relay, nginx


@pytest.mark.parametrize("path", ["/ws/tasks", "/events?general=1", "/healthz", "/api/tasks"])
def test_relay_and_nginx_upgrade_to_websocket_only(path: str, stack: Stack, http2: tuple[Relay, Nginx]) -> None:
    """Over HTTP/2 on that connection a client could ask for /metrics."""

    def answer(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            sock.sendall(
                f"GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n".encode()
            )
            return sock.recv(4096).split(b"\r\n")[0]

    relay, nginx = http2
    assert b" 101 " in answer(relay.port)
    assert b" 101 " not in answer(nginx.port)
    assert b" 101 " not in answer(stack.relays[0].port)  # as it is off unless asked for


def test_relay_that_stops_sends_its_clients_to_the_other(stack: Stack, tmp_path: Path) -> None:
    stopped = stack.relays[0]
    with stack.nginx.client() as one, stack.nginx.client() as two:
        eventually(lambda: all(relay.clients() for relay in stack.relays))
        started = time.monotonic()
        stopped.signal(signal.Signals[stack.image.stage.last("STOPSIGNAL")])
        goodbyes: list[object] = []

        def hears_goodbye(client: Client) -> bool:
            try:
                client.receive(timeout=0.1)
            except ConnectionClosed as error:
                goodbyes.append(error.rcvd and error.rcvd.code)
                return True
            except TimeoutError:
                return False
            raise AssertionError("nothing was published")

        eventually(lambda: hears_goodbye(one) or hears_goodbye(two))
        assert goodbyes == [1001]
        assert stopped.wait() == 0
        assert time.monotonic() - started < seconds(compose()["relay-1"]["stop_grace_period"])
        for number in range(4):
            with stack.nginx.client(f"after-{number}") as client:
                stack.redis.publish_task(f"after-{number}", n=number)
                assert client.receive()["data"] == {"n": number}
    environ = {**environment("relay-1", stack.redis), "RELAY_PORT": str(stopped.port)}
    with Container(stack.image, tmp_path / "again", environ) as again:
        # nginx finds it again by itself.
        def both_have_clients() -> bool:
            with stack.nginx.client(), stack.nginx.client():
                return all(relay.clients() for relay in stack.relays)

        eventually(lambda: http(stopped.port, "/readyz")[0] == 200)
        eventually(both_have_clients, every=0.2)
        again.child.terminate()
        again.wait()


def test_two_workers_in_one_container_count_together(image: Image, stack: Stack, tmp_path: Path) -> None:
    environ = {**environment("relay-1", stack.redis), "RELAY_WORKERS": "2"}
    with Relay(image, tmp_path / "relay", environ) as relay:
        eventually(lambda: relay.logged().count("redis subscription up") == 2)
        eventually(lambda: relay.metric("relay_redis_up") == 1)
        assert relay.execute(image.stage.healthcheck()).returncode == 0
        relay.child.terminate()
        assert relay.wait() == 0


def kubernetes_redis(port: int, data: Path, password: str) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    """The command, the environment and the container of the StatefulSet."""
    (container,) = resource("StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    shell, option, script = container["command"]
    names = [variable["name"] for variable in container["env"]]
    environ = dict.fromkeys(names, password) | {"PATH": redis_commands(data / "bin", port)}
    return [shell, option, script.replace(" /data ", f" {data} ")], environ, container


def test_kubernetes_redis_does_not_start_with_the_example_password(tmp_path: Path) -> None:
    command, environ, _ = kubernetes_redis(free_port(), tmp_path, variables("redis-secret.env")["REDIS_PASSWORD"])
    with ShellCommand(tmp_path, command, environ) as server:
        assert server.wait() == 1
        assert "Set REDIS_PASSWORD in docker/k8s/redis-secret.env" in server.logged()


def test_kubernetes_redis_and_relay_know_one_password(image: Image, tmp_path: Path) -> None:
    port = free_port()
    command, environ, container = kubernetes_redis(port, tmp_path, "5f3c")
    with ShellCommand(tmp_path, command, environ):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            line = container[probe]["exec"]["command"]
            eventually(lambda line=line: subprocess.run(line, env=environ, capture_output=True).returncode == 0)  # type: ignore[misc]
            stranger = {**environ, "REDISCLI_AUTH": ""}
            assert subprocess.run(line, env=stranger, capture_output=True).returncode != 0
        with redis.Redis(port=port, password="5f3c") as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        settings = variables("relay.env") | variables("redis-secret.env")
        settings |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_PASSWORD": "5f3c"}
        with Relay(image, tmp_path / "relay", settings) as relay:
            (pod,) = resource("Deployment", "relay")["spec"]["template"]["spec"]["containers"]
            assert "command" not in pod  # the image's, which has just been run
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert http(relay.port, pod[probe]["httpGet"]["path"])[0] == 200
            sleep, _ = pod["lifecycle"]["preStop"]["exec"]["command"]
            assert relay.execute([sleep, "0.1"]).returncode == 0


def kubernetes_command(service: str) -> list[str]:
    (container,) = resource("Deployment", service)["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["command"]
    return command


@pytest.mark.parametrize("service", [name for name in compose() if name.startswith("worker-")])
def test_worker(service: str, image: Image, stack: Stack, tmp_path: Path) -> None:
    kind, params = WORKERS[service]
    command = compose()[service]["command"]
    assert kubernetes_command(service) == command
    environ = environment(service, stack.redis)
    with Container(image, tmp_path / "worker", environ, command) as worker, TaskManager(stack.redis.url) as manager:
        eventually(lambda: "takes tasks" in worker.logged())
        with stack.nginx.client(f"{kind}-1") as client:
            manager.create(kind, params, task_id=f"{kind}-1")
            seen = [client.receive()]
            while seen[-1].get("data", {}).get("status") != "completed":
                seen.append(client.receive())
        assert {message["type"] for message in seen} == {"general_update", "task_update"}
        worker.child.terminate()
        assert worker.wait() == 0
