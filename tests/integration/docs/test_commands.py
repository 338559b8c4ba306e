"""Every command and every snippet of the README and docs/: run where it can be, checked where it cannot."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from relay_jobs.manager import TaskManager
from relay_wire.redis_urls import parse

from tests.deployment.manifests import compose, resource
from tests.deployment.monitoring import SCRAPING
from tests.deployment.pages import PAGES, Snippet, commands, snippets
from tests.deployment.services import redis_commands
from tests.harness import PATIENCE, ROOT, RedisServer, RelayServer, eventually
from tests.ports import free_port

#: Commands that go on until they are stopped, and what they must say before that.
ENDLESS = {
    r"make run\b": "Relay .* is up",
    r"make demo\b": "pipeline",
    r"(\w+=\S+ )*relay serve\b": "Relay .* is up",
    r"(REDIS_URL=\S+ )?hypercorn\b": "redis subscription up",
    r"relay tail\b": '"type":"task_update","task_id":"(demo|task-123)"',
    r"curl -N '[^']*/mercure\?": r"(?m)^(:|id:|data:)",
    r"curl -N\b": r"event: task_update\n.*\ndata: \{.*demo",
    r"timeout 3 redis-cli SUBSCRIBE\b": "general_updates",
}

#: What a test cannot run, and why.
ELSEWHERE = {
    r"make test$": "this is it",
    r"make (packages|test-packages|test-rolling)$": "asks registries, or takes a minute; tests/release has their parts",
    r"python -m release version\b": "writes to the checkout; tests/release compares the versions",
    r"docker\b|make docker-run-local": "needs a container engine; tests/integration/deployment runs its parts",
    r"helm\b": "needs a cluster; tests/deployment checks what the chart renders",
    r"kubectl\b": "needs a cluster; tests/deployment checks the manifests",
    r"systemctl\b|journalctl\b": "needs systemd to run; the unit is checked below",
    r"pip install\b|/opt/relay/bin/pip\b": "needs the internet",
    r"python3 -m venv /opt/relay|\(umask 077; echo .*>/etc/relay.env\)": "writes to the machine",
    r"curl .*https://relay\.example": "needs a relay with grants; tests/integration/auth has the same requests",
    r"relay celery-events\b": "needs a Celery app; tests/integration/client/integrations has one",
    r"make bench\b|python -m benchmarks\b": "takes minutes; its arguments are checked below",
}

#: The secret of tokens on the pages.
SECRET = "0123456789abcdef0123456789abcdef"

#: What shows a part of an application on the pages: tests/integration/docs/test_grants_page.py,
#: tests/integration/server/test_centrifugo_api.py and tests/integration/client/integrations run them with the rest of it.
OF_AN_APPLICATION = (
    r"^client = Client\(|import current_user_id|urlpatterns|^install\((app|broker|queue|huey|scheduler)\b|^install\($"
    r"|Depends\(relay_tasks|relay_client\.integrations\.(procrastinate|prefect|dask|airflow|transformers)\b"
)
PARTS = [snippet for snippet in snippets("python") if re.search(OF_AN_APPLICATION, snippet.text, re.MULTILINE)]

#: Commands that run at the same time.
AT_ONCE = 4


def kind(command: str, table: dict[str, str]) -> str | None:
    """What a table has for a command."""
    return next((value for pattern, value in table.items() if re.match(pattern, command)), None)


RUN_HERE = [command for command in commands() if kind(command, ELSEWHERE) is None]


@dataclass
class Desk:
    """A reader at a shell, in a copy of the repository, with a relay and a Redis."""

    directory: Path
    redis: RedisServer
    relay: RelayServer
    environ: dict[str, str]

    def adapted(self, command: str) -> str:
        """With the ports of the relay and of Redis for those that the pages have; a server of one's own gets a free one."""
        command = command.replace("--workers 4", "--workers 2")  # to be quick
        if re.search(r"\b(serve|hypercorn|make run|make demo)\b", command):
            command = f"export RELAY_PORT={free_port()}; {command}".replace("8000", str(free_port()))
        if command.startswith("relay token"):  # the other commands are for an open relay
            command = f"export RELAY_JWT_SECRET={SECRET}; {command}"
        command = re.sub(r"redis://(127\.0\.0\.1|redis):6379/0", self.redis.url, command)
        return command.replace("127.0.0.1:8000", f"127.0.0.1:{self.relay.port}")

    def start(self, command: str, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as output:
            return subprocess.Popen(
                ["bash", "-c", self.adapted(command)],
                cwd=self.directory,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, command: str) -> str:
        """Run a command until it ends, or has said what is expected of it. Raises AssertionError."""
        with (
            tempfile.NamedTemporaryFile(dir=self.directory.parent) as file,
            self.start(command, Path(file.name)) as process,
        ):
            log = Path(file.name)
            try:
                expected = kind(command, ENDLESS)
                if expected is None:
                    assert process.wait(timeout=60) == 0, log.read_text()
                else:
                    eventually(lambda: re.search(expected, log.read_text()) or process.poll() is not None)
                    assert re.search(expected, log.read_text()), log.read_text()
            finally:
                if process.poll() is None:
                    # As Ctrl-C does, to all of them.
                    os.killpg(process.pid, signal.SIGINT)
                    try:
                        process.wait(timeout=PATIENCE)
                    finally:
                        if process.poll() is None:
                            os.killpg(process.pid, signal.SIGKILL)
            return log.read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    directory = tmp_path_factory.mktemp("desk")
    repository, servers = directory / "relay", directory / "servers"
    for folder in (repository, servers / "redis", servers / "relay"):
        folder.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name == "docker":
            shutil.copytree(path, repository / "docker")  # some commands write there
        elif path.name != ".env":
            (repository / path.name).symlink_to(path)
    with (
        RedisServer(servers / "redis", "--save", "") as redis,
        RelayServer(servers / "relay", redis.url, "serve") as relay,
    ):
        commands_path = redis_commands(directory / "bin", redis.port)
        make = shutil.which("make")
        (directory / "bin" / "make").write_text(
            f'#!/bin/sh\nexec {make} VENV={sys.prefix} PYTHON={sys.executable} -o {sys.prefix}/.installed "$@"\n'
        )
        (directory / "bin" / "make").chmod(0o755)
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (repository / "private.pem").write_bytes(pem)
        for task_id in ("demo", "task-123"):
            redis.publish_task(task_id, status="in_progress")
        environ = {
            "PATH": f"{commands_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "REDIS_URL": redis.url,
            "RELAY_URL": f"ws://127.0.0.1:{relay.port}",
            "RELAY_PORT": str(relay.port),
        }
        yield Desk(repository, redis, relay, environ)


@pytest.fixture(scope="module")
def runs(desk: Desk) -> Iterator[dict[str, Future[str]]]:
    """All commands, several at a time: most of the time they wait."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {command: pool.submit(desk.run, command) for command in RUN_HERE}


@pytest.mark.parametrize("command", RUN_HERE)
def test_command(command: str, runs: dict[str, Future[str]]) -> None:
    runs[command].result(timeout=120)


def test_command_that_makes_the_password_made_one(desk: Desk, runs: dict[str, Future[str]]) -> None:
    (command,) = (command for command in RUN_HERE if "redis-secret.env" in command)
    runs[command].result(timeout=120)
    written = (desk.directory / "docker" / "k8s" / "redis-secret.env").read_text()
    assert re.fullmatch(r"REDIS_PASSWORD=[0-9a-f]{48}\n", written)


def test_commands_that_are_run_elsewhere_name_what_there_is() -> None:
    for command in commands():
        if kind(command, ELSEWHERE) is None:
            continue
        for word in re.findall(r"\bdocker/\S+", command):
            assert (ROOT / word).exists(), command
        for profile in re.findall(r"--profile (\S+)", command):
            assert any(profile in service.get("profiles", []) for service in compose().values())
        for name in re.findall(r"deployment/(\S+)", command):
            assert resource("Deployment", name)
        for name in re.findall(r"pip install (?:--find-links dist )?'?([a-z-]+)", command):
            assert f'name = "{name}"' in (ROOT / "pyproject.toml").read_text()
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_benchmarks_take_the_arguments() -> None:
    lines = [shlex.split(command)[3:] for command in commands() if command.startswith("python -m benchmarks ")]
    program = """
import json, sys
from typer.testing import CliRunner
from benchmarks.__main__ import app
for line in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, [*line, "--help"])
    assert result.exit_code == 0, result.output
"""
    run = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("snippet", [snippet for snippet in snippets("python") if snippet not in PARTS], ids=str)
def test_python(snippet: Snippet, desk: Desk) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet.text],
        env=desk.environ | {"RELAY_JWT_SECRET": SECRET},
        cwd=desk.directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("snippet", [each for each in snippets("yaml") if "monitoring" in each.page], ids=str)
def test_monitoring(snippet: Snippet) -> None:
    """A piece of a file: what Prometheus is to scrape, as in docker/, or values of the chart."""
    content = yaml.safe_load(snippet.text)
    if "scrape_configs" in content:
        shipped = yaml.safe_load(SCRAPING.read_text())
        assert content["rule_files"] == shipped["rule_files"]
        assert content["scrape_configs"][0].keys() == shipped["scrape_configs"][0].keys()
        assert content["scrape_configs"][0]["job_name"] == shipped["scrape_configs"][0]["job_name"]
    else:
        values = yaml.safe_load((ROOT / "docker" / "helm" / "relay" / "values.yaml").read_text())
        for name, value in content.items():
            assert value.keys() <= values[name].keys()


MANIFESTS = [each for each in snippets("yaml") if "monitoring" not in each.page and "apiVersion:" in each.text]


def test_other_yaml_is_values_of_the_chart_or_rules_for_a_metric_that_there_is() -> None:
    values = yaml.safe_load((ROOT / "docker" / "helm" / "relay" / "values.yaml").read_text())
    for snippet in snippets("yaml"):
        if "monitoring" in snippet.page or snippet in MANIFESTS:
            continue
        shown = yaml.safe_load(snippet.text)
        (section,) = shown
        if section == "rules":
            assert "'relay_connections{" in snippet.text
            continue
        assert set(shown[section]) <= set(values[section]), snippet


@pytest.mark.parametrize("snippet", MANIFESTS, ids=str)
def test_manifest(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(snippet.text)
    program = Path(sys.executable).parent / "kubernetes-validate"
    run = subprocess.run([program, "--strict", tmp_path / "manifest.yaml"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    manifest = yaml.safe_load(snippet.text)
    assert manifest["kind"] == "Ingress"
    for rule in manifest["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            service = path["backend"]["service"]
            ports = resource("Service", service["name"])["spec"]["ports"]
            assert service["port"]["name"] in {port["name"] for port in ports}


@pytest.mark.parametrize("snippet", snippets("dockerfile"), ids=str)
def test_dockerfile(snippet: Snippet) -> None:
    program = Path(sys.executable).parent / "hadolint"
    run = subprocess.run([program, "-"], input=snippet.text, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout
    base = compose()["relay-1"]["image"]
    assert f"FROM {base}\n" in snippet.text


@pytest.mark.parametrize("snippet", snippets("nginx"), ids=str)
def test_nginx(snippet: Snippet, tmp_path: Path) -> None:
    """A whole server for the http block; tests/integration/deployment/test_moving.py runs it."""
    directories = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = f"pid {tmp_path}/pid; events {{ }}"
    (tmp_path / "nginx.conf").write_text(f"{main} http {{ {directories} access_log off; {snippet.text} }}")
    environ = {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    command = ["nginx", "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("snippet", snippets("ini"), ids=str)
def test_systemd_unit(snippet: Snippet, desk: Desk, tmp_path: Path) -> None:
    """systemd takes it, and what it starts counts in the directory that it names."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(snippet.text)
    service = unit["Service"]
    verified = tmp_path / "relay.service"
    verified.write_text(snippet.text.replace("/opt/relay/bin/hypercorn", "/bin/true"))
    run = subprocess.run(["systemd-analyze", "verify", verified], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr.strip()) == (0, "")
    # 0 is a service that can do nothing, 10 one that can do everything; here a tenth counts as 1.
    confined = ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=15", str(verified)]
    run = subprocess.run(confined, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout
    assert float(service["TimeoutStopSec"]) > 20 + 2
    assert service["KillMode"] == "mixed"
    name, _, directory = service["Environment"].partition("=")
    assert directory == f"/run/{service['RuntimeDirectory']}" == service["WorkingDirectory"]

    port = free_port()
    (tmp_path / "counts").mkdir()
    workers = 2  # of the four, to be quick
    command = service["ExecStart"].replace(":8000", f":{port}").replace("-w 4 ", f"-w {workers} ")
    command = command.removeprefix("/opt/relay/bin/")
    environ = {**desk.environ, name: str(tmp_path / "counts")}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command.split(), env=environ, stdout=output, stderr=output, start_new_session=True)
    with process:
        try:
            eventually(lambda: log.read_text().count("redis subscription up") == workers)
            assert len(list((tmp_path / "counts").glob("gauge_livesum_*.db"))) == workers
            process.terminate()  # to the supervisor only, as KillMode=mixed has it
            assert process.wait(timeout=PATIENCE) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_redis_urls_are_some() -> None:
    found = [url for page in PAGES for url in re.findall(r"\b(?:REDIS_URL=)(\w[\w+]*://[^\s'`]+)", page.read_text())]
    assert {parse(url).kind for url in found} == {"single", "sentinel", "cluster"}


def test_redis_user_of_the_docs_may_do_all_that_is_needed(tmp_path: Path, redis_server: RedisServer) -> None:
    (command,) = (command for command in commands() if "ACL SETUSER" in command)
    environ = {"PATH": f"{redis_commands(tmp_path / 'bin', redis_server.port)}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=environ, check=True, capture_output=True, timeout=60)
    url = f"redis://relay:secret@127.0.0.1:{redis_server.port}/0"
    (tmp_path / "relay").mkdir()
    worker = [sys.executable, "-m", "relay_jobs.command", "relay_jobs.examples.pipeline:worker"]
    with RelayServer(tmp_path / "relay", url, "serve") as relay, TaskManager(url) as manager, relay.client() as client:
        with subprocess.Popen([*worker, "--redis-url", url], stderr=subprocess.DEVNULL) as process:
            manager.create("pipeline", {"records": 2, "seconds": 0.1}, task_id="p")
            assert manager.wait("p", PATIENCE).fields["status"] == "completed"
            process.terminate()
        with redis_server.client() as admin:
            admin.publish("task_updates", json.dumps({"type": "task_update", "task_id": "plain", "data": {"n": 1}}))
            eventually(lambda: '"plain"' in relay.get("/api/tasks")[1])
            assert admin.execute_command("ACL LOG") == []
        assert client.receive()["data"]["type"] == "task_created"
