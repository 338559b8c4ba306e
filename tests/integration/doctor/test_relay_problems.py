"""`relay doctor --url` names what is wrong with a relay and with the proxy before it, and nothing where all is well."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from relay_wire import keys

from relay.commands.relay_urls import base_url
from relay.config import Settings, load
from relay.doctor.examination import Report, examine, relay_stage
from relay.doctor.local_checks import check_files, check_settings, check_token
from relay.doctor.problems import NotCheckedError
from relay.doctor.relay_checks import Client, check_backlog, check_hold, check_port, check_relays
from relay.processes import MAX_FILES, start_child
from tests.harness import RedisServer, RelayServer, Server, eventually
from tests.http_server import RequestHandler, serving
from tests.ports import free_port

SECRET = "0123456789abcdef0123456789abcdef"

#: What a location of nginx says, beginning with what is right.
RIGHT = (
    "proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; "
    "proxy_set_header Connection $connection_upgrade; proxy_buffering off;"
)
#: The third is nginx' default, HTTP/1.0, with buffering that the relay cannot turn off.
LOCATIONS = {
    "right": RIGHT,
    "plain": RIGHT.replace("Upgrade $http_upgrade", 'Upgrade ""'),
    "buffers": "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; proxy_set_header Host $http_host;",
    "cuts": RIGHT + "proxy_read_timeout 1s;",
    "forgets": RIGHT + 'proxy_set_header Last-Event-ID "";',
}


class Nginx(Server):
    """nginx with a location for each entry of LOCATIONS, and one whose relay does not run."""

    name = "nginx"

    def __init__(self, directory: Path, relay: int) -> None:
        super().__init__(directory)
        self.port = free_port()
        places = "".join(
            f"location /{name}/ {{ {text} proxy_pass http://127.0.0.1:{relay}/; }}\n"
            for name, text in LOCATIONS.items()
        )
        places += f"location /gone/ {{ proxy_pass http://127.0.0.1:{free_port()}/; }}\n"
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
        configuration = directory / "nginx.conf"
        configuration.write_text(
            f"pid {directory}/pid; worker_processes 1; events {{}}\nhttp {{ access_log off; {temporary}\n"
            'map $http_upgrade $connection_upgrade { default upgrade; "" close; }\n'
            f"server {{ listen 127.0.0.1:{self.port};\n{places}}} }}\n"
        )
        command = ["/usr/sbin/nginx", "-e", "stderr", "-g", "daemon off;", "-c", str(configuration)]
        with self.log.open("wb") as log:
            self._child = start_child(command, cwd=directory, stdout=log, stderr=subprocess.STDOUT)
        eventually(self.listens)

    def listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("valkey"), "--save", "") as server:
        yield server


@pytest.fixture(scope="module")
def relay(valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayServer]:
    settings: dict[str, Any] = {
        "allowed_origins": "https://app.example.com",
        "allowed_hosts": "127.0.0.1",
        "jwt_secret": SECRET,
        "jwt_audience": "relay",
        "jwt_issuer": "here",
    }
    with RelayServer(tmp_path_factory.mktemp("relay"), valkey.url, "serve", **settings) as server:
        yield server


def token(
    audience: str = "relay",
    issuer: str = "here",
    ttl: float = 600,
    secret: str = SECRET,
    scopes: dict[str, Any] = {"watch": {"general": True}},  # noqa: B006 - nobody changes it
) -> str:
    now = int(time.time())
    claims = {"iat": min(now, now + int(ttl)), "exp": now + int(ttl), "aud": audience, "iss": issuer, "sub": "doctor"}
    return jwt.encode({**claims, "relay": scopes}, secret, "HS256")


def settings_of(**values: Any) -> Settings:
    return load(**values)[0]


def examined(url: str, timeout: float = 5.0, shown: str | None = None, origin: str | None = None) -> Report:
    client = Client(base_url(url), origin, token() if shown is None else shown, timeout)
    return trio.run(examine, [relay_stage(client)], 4 * timeout)


def found(report: Report) -> set[str]:
    return {finding.problem.id for result in report.results for finding in result.findings}


def test_healthy_ones_have_no_problem(relay: RelayServer, tmp_path: Path) -> None:
    with Nginx(tmp_path, relay.port) as nginx:
        urls = f"http://127.0.0.1:{relay.port}", f"http://127.0.0.1:{nginx.port}/right"
        for report in [examined(url, origin="https://app.example.com") for url in urls]:
            assert [result.findings for result in report.results] == [[], (), [], []]
            assert [result.not_checked is None for result in report.results] == [True, False, True, True]  # no operator
        for place, problem in (
            ("plain", "proxy-upgrade"),
            ("forgets", "proxy-last-event-id"),
            ("gone", "relay-unreachable"),
        ):
            assert found(examined(f"http://127.0.0.1:{nginx.port}/{place}")) == {problem}
        assert found(examined(f"http://127.0.0.1:{nginx.port}/buffers", timeout=1.0)) == {
            "proxy-buffers",
            "proxy-upgrade",
        }

        client = Client(f"http://127.0.0.1:{nginx.port}/right", None, token(), 5.0)
        assert check_hold(client, 1.5) == []
        (finding,) = check_hold(client._replace(url=f"http://127.0.0.1:{nginx.port}/cuts"), 10)
        assert finding.problem.id == "proxy-cuts"


def test_what_all_relays_say(relay: RelayServer, valkey: RedisServer) -> None:
    everything = {"watch": {"all": True}, "list": {"all": True}}
    client = Client(base_url(relay.url), None, token(scopes=everything), 5.0)
    assert check_relays(client) == []
    valkey.publish("task_updates", "{progress: 40}")
    with valkey.client() as admin:
        admin.zadd(keys.NODES, {"gone": time.time() * 1000})
        (silent, malformed) = eventually(lambda: (found := check_relays(client))[1:] and found)
        admin.zrem(keys.NODES, "gone")
    assert (silent.problem.id, silent.detail) == ("relay-silent", "gone")
    assert malformed.problem.id == "publishes-malformed"
    assert malformed.detail.startswith("PUBLISH task_updates: not JSON")
    with pytest.raises(NotCheckedError, match="/status answers 403"):
        check_relays(client._replace(token=token()))


def test_origin_and_host(relay: RelayServer) -> None:
    assert found(examined(relay.url, origin="https://evil.example.com")) == {"origin-refused"}
    assert "host-refused" in found(examined(f"http://localhost:{relay.port}"))


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ({"ttl": -60}, "token-expired"),
        ({"audience": "other"}, "token-audience"),
        ({"issuer": "elsewhere"}, "token-issuer"),
        ({"secret": SECRET[::-1]}, "token-refused"),
    ],
)
def test_tokens(relay: RelayServer, shown: dict[str, Any], problem: str) -> None:
    assert found(examined(relay.url, shown=token(**shown))) == {problem}


def test_claims_are_checked_without_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(jwt_secret=SECRET, jwt_audience="relay", jwt_issuer="here")
    late, now = token(), time.time()

    def problems(shown: str) -> list[str]:
        return [finding.problem.id for finding in check_token(shown, settings)]

    assert problems(token()) == []
    assert problems(token(ttl=-60)) == ["token-expired"]
    assert problems(token(audience="other", issuer="elsewhere")) == ["token-audience", "token-issuer"]
    assert problems("Bearer") == problems("a.b.c") == ["token-malformed"]
    monkeypatch.setattr(time, "time", lambda: now - 120)
    assert problems(late) == ["token-not-yet-valid"]


def test_the_clock(relay: RelayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, now = token(), time.time
    monkeypatch.setattr(time, "time", lambda: now() - 90)
    assert found(examined(relay.url, shown=shown)) == {"clock-skew"}


def test_no_relay_and_a_relay_without_redis(tmp_path: Path) -> None:
    port = free_port()
    assert found(examined(f"http://127.0.0.1:{port}")) == {"relay-unreachable"}
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # it accepts, and never answers
        assert found(examined(f"http://127.0.0.1:{frozen.getsockname()[1]}", timeout=0.5)) == {"relay-unreachable"}
    with RelayServer(tmp_path, f"redis://127.0.0.1:{port}/0", "serve", wait=False) as relay:
        eventually(lambda: relay.get("/healthz")[0] == 200)
        report = examined(relay.url, timeout=2.0)
    (finding,) = report.results[0].findings
    assert (finding.problem.id, finding.detail) == ("relay-not-ready", "redis is not reachable")


@contextmanager
def small_relay() -> Iterator[int]:
    """What answers as a relay with a backlog of 7 would; its port."""

    class Healthy(RequestHandler):
        def do_GET(self) -> None:
            self.answer(b'{"status":"ok"}', "application/json")

    class Server(HTTPServer):
        request_queue_size = 7

    with serving(Healthy, Server) as port:
        yield port


def test_this_machine(relay: RelayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_port(settings_of(port=relay.port), 5) == check_port(settings_of(port=free_port()), 5) == []
    with socket.create_server(("127.0.0.1", 0)) as other:
        answers = threading.Thread(target=lambda: other.accept()[0].close())
        answers.start()
        (finding,) = check_port(settings_of(port=other.getsockname()[1]), 5)
        answers.join()
    assert finding.problem.id == "port-taken"
    assert check_backlog(settings_of(port=relay.port), 5) == []
    with small_relay() as port:
        (finding,) = check_backlog(settings_of(port=port), 5)
    assert (finding.problem.id, f"port {port} has a backlog of 7" in finding.detail) == ("backlog", True)
    monkeypatch.setattr("relay.doctor.relay_checks.longest_backlog", lambda: 128)
    (finding,) = check_backlog(settings_of(port=free_port()), 5)
    assert "net.core.somaxconn grants 128" in finding.detail
    assert [each.problem.id for each in check_files(settings_of(max_clients=MAX_FILES))] == ["file-limit"]
    monkeypatch.setenv("RELAY_QEUE_BYTES", "1")
    problems = [each.problem.id for each in check_settings(*load(profile="production"))]
    assert set(problems) == {"setting-unknown", "setting-unsafe"}
