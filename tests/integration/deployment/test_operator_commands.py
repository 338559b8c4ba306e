"""The Makefile's commands for operators, on a relay with a Redis of its own, a configured one, and without containers."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_wire import keys

from tests.conftest import StartRelay
from tests.harness import ROOT, RedisServer, RelayServer, eventually
from tests.ports import free_port

#: What the commands need besides a container engine.
PROGRAMS = ("make", "sh", "env", "grep", "sed", "expand", "tail")


class Operator:
    """Somebody at a shell, with a PATH of their own: no redis-cli and no container engine unless given."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.bin.mkdir()
        for program in PROGRAMS:
            found = shutil.which(program)
            assert found is not None
            (self.bin / program).symlink_to(found)
        self.environ = {"PATH": str(self.bin), "TMPDIR": str(directory)}

    def give(self, program: str, script: str | None = None) -> None:
        """Install a program of this machine, or a shell script."""
        if script is None:
            found = shutil.which(program)
            assert found is not None
            (self.bin / program).symlink_to(found)
        else:
            (self.bin / program).write_text(f"#!/bin/sh\n{script}\n")
            (self.bin / program).chmod(0o755)

    def make(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run make with the environment of the tests as its virtual environment, as if it were new enough."""
        installed = f"{sys.prefix}/.installed"
        fixed = [f"VENV={sys.prefix}", f"PYTHON={sys.executable}", "--no-print-directory", "-o", installed]
        command = [str(self.bin / "make"), *fixed, *arguments]
        return subprocess.run(
            command, env=self.environ, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=60
        )


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayServer]:
    """A relay with a Redis of its own."""
    directory = tmp_path_factory.mktemp("relay")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(directory))  # where its Redis has its log
        server = RelayServer(directory, None, "serve")
    with server:
        yield server


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """On a machine on which no relay runs."""
    return Operator(tmp_path)


@pytest.fixture
def neighbour(operator: Operator, relay: RelayServer) -> Operator:
    """On the relay's machine."""
    operator.environ |= {"RELAY_URL": f"ws://127.0.0.1:{relay.port}", "TMPDIR": str(relay.directory)}
    return operator


def test_help_shows_every_target(operator: Operator) -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.findall(r"[\w-]+", text.partition(".PHONY:")[2].partition("\n\n")[0].replace("\\", ""))
    targets = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    assert sorted(phony) == sorted(targets)
    shown = [line.split()[0] for line in operator.make("help").stdout.splitlines()]
    assert shown == targets


def test_commands_find_the_relays_own_redis(neighbour: Operator, relay: RelayServer) -> None:
    assert '"redis_is": "embedded"' in relay.logged()  # as docs/troubleshoot.md says
    tested = neighbour.make("test-redis")
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.count("\nok ") == 4, tested.stdout
    assert "embedded in a relay on this machine" in tested.stdout

    status = neighbour.make("redis-status")
    assert status.returncode == 0, status.stderr
    assert re.search(r"subscribers  1 on task_updates, 1 on general_updates", status.stdout)
    assert "tasks          1 known, 0 in progress, 0 of them stalled" in status.stdout
    assert "! server: maxmemory is not set" in status.stdout

    log = neighbour.make("redis-logs", "LINES=1")
    assert log.returncode == 0, log.stderr
    assert log.stdout.splitlines()[-1].endswith("Ready to accept connections tcp")
    assert len(log.stdout.splitlines()) == 1

    eventually(lambda: relay.metric("relay_redis_up") == 1)  # it is set once a second
    health = neighbour.make("health-check")
    assert health.returncode == 0, health.stderr
    assert "/readyz  200" in health.stdout
    assert "relay_redis_up  1" in health.stdout


def listed(relay: RelayServer) -> dict[str, int]:
    """The tasks of ``GET /api/tasks``, counted as an operator counts them."""
    tasks = [task["data"] for task in json.loads(relay.get("/api/tasks?limit=500")[1])["tasks"]]
    running = [task for task in tasks if task.get("status") == "in_progress"]
    return {
        "known": len(tasks),
        "in progress": len(running),
        "stalled": sum(task.get("stalled") is True for task in running),
    }


def test_redis_status_and_the_list_of_tasks_agree(
    operator: Operator, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(task_stall_seconds=0.5)
    silent, ends_late = ["silent 1", "silent 2"], "ends late"
    for task_id in (*silent, ends_late):
        redis_server.publish_task(task_id, status="in_progress")
    eventually(lambda: listed(relay)["stalled"] == 3)
    redis_server.publish_task(ends_late, status="completed")
    for number, status in enumerate(["pending", "completed", "failed", "cancelled", "sleeping", 7, None]):
        redis_server.publish_task(f"other {number}", status=status)
    redis_server.publish_task("no status", progress=40)
    for task_id in ("forgotten", "broken"):
        redis_server.publish_task(task_id, status="in_progress")
    eventually(lambda: listed(relay)["known"] == 13)
    with redis_server.client() as client:
        client.delete(keys.state("task:forgotten"), keys.state("task:broken"))
        client.set(keys.state("task:broken"), "no hash")
    expected = {"known": 11, "in progress": 2, "stalled": 2}
    assert listed(relay) == expected
    operator.environ["REDIS_URL"] = redis_server.url
    shown = operator.make("redis-status")
    assert shown.returncode == 0, shown.stderr
    assert "tasks          {} known, {} in progress, {} of them stalled".format(*expected.values()) in shown.stdout


def test_health_check_without_a_relay(operator: Operator) -> None:
    operator.environ["RELAY_URL"] = f"http://127.0.0.1:{free_port()}"
    gone = operator.make("health-check")
    assert gone.returncode != 0
    assert "/healthz  no answer" in gone.stdout
    assert "docs/troubleshoot.md" in gone.stderr


@pytest.mark.parametrize("has_program", [True, False], ids=["redis-cli", "its stand-in"])
def test_redis_cli(has_program: bool, neighbour: Operator) -> None:
    if has_program:
        neighbour.give("redis-cli")
    one = neighbour.make("redis-cli", "ARGS=pubsub channels *")  # a pattern that no shell may touch
    assert one.returncode == 0, one.stderr
    assert "relay:probe:" in one.stdout
    if not has_program:
        several = neighbour.make("redis-cli", stdin="set x 'a b'\nget x\nnonsense\nget 'x\n\nhgetall x\nquit\n")
        assert several.stdout.splitlines() == ["OK", "a b"]
        assert [line.split()[:3] for line in several.stderr.splitlines()[1:]] == [
            ["(error)", "unknown", "command"],
            ["(error)", "No", "closing"],
            ["(error)", "WRONGTYPE", "Operation"],
        ]


def test_redis_cli_gets_the_password_through_the_environment(operator: Operator, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("requirepass", "pa ss")
    operator.environ["REDIS_URL"] = f"redis://:pa%20ss@127.0.0.1:{redis_server.port}/3"
    stand_in = operator.make("redis-cli", "ARGS=ping")
    assert stand_in.returncode == 0
    assert "pa ss" not in stand_in.stderr
    operator.give("redis-cli", 'echo "$REDISCLI_AUTH" "$@"')
    shown = operator.make("redis-cli", "ARGS=ping").stdout
    assert shown.split() == ["pa", "ss", "-h", "127.0.0.1", "-p", str(redis_server.port), "-n", "3", "ping"]


def test_redis_that_is_away(operator: Operator) -> None:
    operator.environ |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(free_port())}
    for command, why in (("test-redis", "FAILED  Redis answers"), ("redis-status", "Redis does not answer")):
        run = operator.make(command)
        assert run.returncode != 0
        assert why in run.stderr
        assert "docs/troubleshoot.md" in run.stderr


def test_redis_that_the_relay_does_not_hear(neighbour: Operator, redis_server: RedisServer) -> None:
    neighbour.environ["REDIS_URL"] = redis_server.url
    tested = neighbour.make("test-redis")
    assert tested.returncode != 0
    assert "ok      the relay accepts a WebSocket" in tested.stdout
    assert "a plain PUBLISH came back: nobody is subscribed to task_updates on this Redis" in tested.stderr


def test_wrong_settings_are_named(operator: Operator) -> None:
    operator.environ |= {"REDIS_PORT": "tcp://10.0.0.1:6379", "RELAY_URL": "localhost"}
    assert "REDIS_PORT" in operator.make("redis-status").stderr
    assert "RELAY_URL" in operator.make("health-check").stderr


ENGINES = {
    "docker": ("docker", "docker compose"),
    "docker-compose": ("docker-compose", "docker-compose"),
    "podman": ("podman", "podman compose"),
    "podman-compose": ("podman-compose", "podman-compose"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_containers_are_run_by_whatever_engine_there_is(engine: str, neighbour: Operator, relay: RelayServer) -> None:
    """The engine is a script that notes its arguments; the relay plays the one that it would start."""
    program, shown = ENGINES[engine]
    notes = neighbour.bin.parent / "notes"
    neighbour.give(program, f'echo "{program} $*" >>{notes}')
    neighbour.environ |= {"RELAY_PORT": str(relay.port), "RELAY_URL": "ws://127.0.0.1:1", "REDIS_URL": "redis://h/0"}

    def noted(*arguments: str) -> str:
        notes.write_text("")
        run = neighbour.make(*arguments)
        assert run.returncode == 0, run.stderr
        (line,) = (line for line in notes.read_text().splitlines() if not line.endswith("compose version"))
        return line.removeprefix(f"{shown} -f docker/compose.yml ")

    assert noted("docker-run-local") == "up --build --detach"
    assert noted("docker-run-local", "WORKERS=1") == "--profile workers up --build --detach"
    more = "--profile workers --profile monitoring"
    assert noted("docker-run-local", "WORKERS=1", "MONITORING=1") == f"{more} up --build --detach"
    assert noted("docker-stop-local") == f"{more} down"
    assert noted("show-logs") == "logs --tail 100"
    assert noted("show-logs", "FOLLOW=1", "LINES=5") == "logs --tail 5 --follow"
    if engine == "docker":  # Redis is configured, so it is not the relay's own
        assert noted("redis-logs") == "logs --tail 100 redis"


@pytest.mark.parametrize("target", ["docker-run-local", "docker-stop-local", "show-logs", "redis-logs"])
def test_without_an_engine_it_says_what_to_do(target: str, operator: Operator) -> None:
    operator.give("docker", 'echo "docker: unknown command: docker $1" >&2; exit 1')  # without its plugin for Compose
    run = operator.make(target)
    assert run.returncode != 0
    assert "No Docker Compose and no Podman Compose here" in run.stderr
    assert "unknown command" not in run.stderr


def test_docker_run_local_fails_when_no_relay_comes_up(operator: Operator) -> None:
    operator.give("docker-compose", "exit 5")
    assert operator.make("docker-run-local").returncode != 0


def test_logs_are_followed(neighbour: Operator) -> None:
    installed = f"{sys.prefix}/.installed"
    command = ["make", f"VENV={sys.prefix}", "-o", installed, "redis-logs", "FOLLOW=1"]
    with subprocess.Popen(
        command, env=neighbour.environ, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as following:
        assert following.stdout is not None
        try:
            eventually(lambda: "Ready to accept" in following.stdout.readline())  # type: ignore[union-attr]
            neighbour.make("redis-cli", "ARGS=bgsave")
            eventually(lambda: "Background saving started" in following.stdout.readline())  # type: ignore[union-attr]
        finally:
            os.killpg(following.pid, 15)
