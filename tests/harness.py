"""Real processes for the tests: Valkey servers and relays, each on a free port, each gone when its test is over."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec
import redis
from relay_wire import cancellation, keys
from relay_wire.channels import GENERAL
from websockets.sync.client import ClientConnection, connect

from relay.broker.embedded import start_server
from relay.config import Settings
from relay.processes import Child, start_child
from tests.ports import free_port
from tests.preloaded import PreloadedChild, start_program

#: How a relay is run. All but "serve" are commands that others wrote: stock Hypercorn, stock uvicorn. As Hypercorn comes, its
#: supervisor starts the process that serves. Without it, the relay starts in a tenth of the time, and ends at once on a signal.
Kind = Literal["hypercorn", "hypercorn-supervised", "hypercorn-asyncio", "hypercorn-tls", "uvicorn", "serve"]

T = TypeVar("T")

ROOT = Path(__file__).parent.parent

#: Seconds after which a test gives up. It keeps the suite from hanging, and says nothing about speed: the machine may be busy.
PATIENCE = 60.0


def eventually(check: Callable[[], T], within: float = PATIENCE, every: float = 0.02) -> T:
    """Return the first true result of `check`; fail when there is none in time."""
    deadline = time.monotonic() + within
    while True:
        if result := check():
            return result
        assert time.monotonic() < deadline, f"not within {within} s: {check}"
        time.sleep(every)


def stop(child: Child) -> None:
    """Have a process end. Raises TimeoutExpired if it does not, and kills it."""
    child.terminate()
    try:
        child.wait(PATIENCE)
    finally:
        child.kill()


class Server:
    """A child process with a log file."""

    name = "server"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "server.log"
        self._child: Child | PreloadedChild | None = None

    @property
    def child(self) -> Child | PreloadedChild:
        assert self._child is not None, "not started"
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    def logged(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def wait(self, timeout: float = PATIENCE) -> int:
        return self.child.wait(timeout)

    def kill(self) -> None:
        """End it without warning, as a power cut would: with all children that are not in sessions of their own."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self.kill()
        if kind is not None:
            print(f"--- log of {self.name}\n{self.logged()[-8000:]}", file=sys.stderr)


class RedisServer(Server):
    """A real Valkey. Options are those of its command line."""

    name = "valkey"

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        super().__init__(directory)
        self.port = port or free_port()
        self.options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it (again), and wait until it answers. The kernel ends it with the thread that has started it."""
        self._child = start_server(self.port, self.directory, *self.options)
        eventually(self.answers)

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=PATIENCE)

    def clear(self) -> None:
        """Delete everything that was published, under the relays that run. The generations stay, and the numbers of the channel
        that every relay follows: a relay takes their loss for the loss of history, and tells its clients."""
        with self.client() as client:
            general = keys.meta(GENERAL).encode()
            names = [name for name in client.keys("*") if not name.endswith(b":generation") and name != general]
            if names:
                client.delete(*names)

    def publish_task(self, task_id: str, **fields: Any) -> int:
        """As today's services do it: a plain PUBLISH."""
        message = {"type": "task_update", "task_id": task_id, "data": fields, "timestamp": time.time()}
        return self.publish("task_updates", msgspec.json.encode(message))

    def request_cancel(self, task_id: str, reason: str = "") -> str:
        """Request a task's end as a relay and a manager do. Returns what that came to."""
        script, names, values = cancellation.cancel_call(task_id, reason)
        with self.client() as client:
            return cancellation.read_outcome(client.eval(script.source, len(names), *names, *values))

    def publish_general(self, **fields: Any) -> int:
        return self.publish("general_updates", msgspec.json.encode({"type": "general_update", "data": fields}))

    def publish(self, channel: str, message: bytes | str) -> int:
        with self.client() as client:
            return int(client.publish(channel, message))


class RelayServer(Server):
    """A relay process: `kind` says which command runs it. Settings are given without their RELAY_ prefix."""

    name = "relay"

    def __init__(
        self,
        directory: Path,
        redis_url: str | None,
        kind: Kind = "serve",
        *,
        certificate: tuple[Path, Path] | None = None,
        arguments: tuple[str, ...] = (),
        cpu: int | None = None,
        wait: bool = True,
        **settings: object,
    ) -> None:
        super().__init__(directory)
        unknown = settings.keys() - Settings.model_fields.keys()
        assert not unknown, f"no settings of the relay: {unknown}"
        self.kind = kind
        self.port = free_port()
        self._certificate = certificate
        self._arguments = arguments
        self._cpu = cpu
        self._clients: list[socket.socket] = []
        self._earlier_log = 0
        self._earlier_counts: dict[str, float] = {}
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
        if redis_url is not None:
            self._environ["REDIS_URL"] = redis_url
        # Pings at unexpected moments are no help to tests that look at single bytes.
        self._environ["RELAY_HEARTBEAT_INTERVAL"] = "300"
        unknown = set(settings) - Settings.model_fields.keys()
        assert not unknown, f"no settings, and so without effect: {unknown}"
        self._environ.update({f"RELAY_{name.upper()}": str(value) for name, value in settings.items()})
        self.start(wait)

    def _command(self) -> list[str]:
        bind = f"127.0.0.1:{self.port}"
        match self.kind:
            case "hypercorn":
                return ["hypercorn", "-w", "0", "-k", "trio", "-b", bind, "relay.asgi:app"]
            case "hypercorn-supervised":
                return ["hypercorn", "-k", "trio", "-b", bind, "relay.asgi:app"]
            case "hypercorn-asyncio":  # its default worker class
                return ["hypercorn", "-w", "0", "-b", bind, "relay.asgi:app"]
            case "hypercorn-tls":
                assert self._certificate is not None
                key, certificate = self._certificate
                tls = ["--keyfile", str(key), "--certfile", str(certificate)]
                return ["hypercorn", "-w", "0", "-k", "trio", "-b", bind, *tls, "relay.asgi:app"]
            case "uvicorn":
                return ["uvicorn", "--port", str(self.port), "relay.asgi:app"]
            case "serve":
                return ["relay.cli", "serve", "--port", str(self.port)]

    def import_from(self, packages: Path) -> None:
        """Let later starts run the version of Relay that this folder has."""
        self._environ["PYTHONPATH"] = str(packages)

    def start(self, wait: bool = True) -> None:
        """Start it (again), and wait until it is ready."""
        command = [*self._command(), *self._arguments]
        with self.log.open("ab") as log:
            if self.kind != "hypercorn-supervised" and self._cpu is None:
                self._child = start_program(command, self._environ, log, self.directory)
            else:
                pin = ["taskset", "-c", str(self._cpu)] if self._cpu is not None else []
                command = [*pin, sys.executable, "-m", *command]
                self._child = start_child(
                    command, env=self._environ, stdout=log, stderr=subprocess.STDOUT, cwd=self.directory
                )
        if wait:
            eventually(self.is_ready)

    @property
    def url(self) -> str:
        scheme = "wss" if self.kind == "hypercorn-tls" else "ws"
        return f"{scheme}://127.0.0.1:{self.port}/ws/tasks"

    def tls_options(self) -> dict[str, ssl.SSLContext]:
        """What a client needs to trust the relay's certificate."""
        if self.kind != "hypercorn-tls":
            return {}
        assert self._certificate is not None
        return {"ssl": ssl.create_default_context(cafile=str(self._certificate[1].parent / "ca.pem"))}

    def get(self, path: str) -> tuple[int, str]:
        """An HTTP GET; status 0 means that nobody answered."""
        assert self.kind != "hypercorn-tls"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_ready(self) -> bool:
        assert self.child.poll() is None, f"the relay ended with {self.child.returncode}:\n{self.logged()}"
        if self.kind == "hypercorn-tls":
            return "redis subscription up" in self.logged()
        return self.get("/readyz")[0] == 200

    def metric(self, name: str) -> float:
        """The value of a metric, given with its labels as Prometheus writes them; 0 when it is not there yet."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) - self._earlier_counts.get(name, 0.0) if found else 0.0

    def logged(self) -> str:
        return super().logged()[self._earlier_log :]

    def begin_again(self) -> None:
        """Wait until no client is left, and count from here: the next test finds the relay as if it had just started."""
        self.close_clients()
        if self.kind != "hypercorn-tls":
            eventually(lambda: not re.search(r"^relay_connections{.*} [^0]", self.get("/metrics")[1], re.MULTILINE))
            counts = re.findall(r"^(\w+_total(?:{.*})?) (\S+)$", self.get("/metrics")[1], re.MULTILINE)
            self._earlier_counts = {name: float(value) for name, value in counts}
        self._earlier_log = len(super().logged())

    def worker_pids(self) -> list[int]:
        """The processes that serve: the children of a supervisor, if there is one."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        names: dict[int, bytes] = {}
        for pid in children:
            with suppress(OSError):  # one of them has just ended
                names[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes()
        return [pid for pid, line in names.items() if b"spawn_main" in line or b"relay.cli" in line] or [self.pid]

    def freeze_workers(self) -> None:
        """Stop the processes that serve."""
        for pid in self.worker_pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw_workers(self) -> None:
        for pid in self.worker_pids():
            os.kill(pid, signal.SIGCONT)

    def memory(self) -> int:
        """Resident bytes of the serving process."""
        status = Path(f"/proc/{self.worker_pids()[0]}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def terminate(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, as an operator or an orchestrator would; returns the exit status."""
        self.child.terminate()
        return self.wait(timeout)

    @contextmanager
    def client(self, *task_ids: str, **options: Any) -> Iterator["Client"]:
        """A client on the `websockets` package, subscribed to tasks."""
        with connect(self.url, open_timeout=PATIENCE, **options) as connection:
            client = Client(connection)
            for task_id in task_ids:
                client.send({"type": "subscribe", "task_id": task_id})
                assert client.receive() == {"type": "subscribed", "task_id": task_id}
            yield client

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.close_clients()

    def close_clients(self) -> None:
        """Close the bare sockets that are left open."""
        while self._clients:
            self._clients.pop().close()

    def raw_client(self, *task_ids: str, receive_buffer: int | None = None) -> socket.socket:
        """A bare socket after the handshake, its subscriptions answered; it reads no further than the test does."""
        sock: socket.socket = socket.socket()
        self._clients.append(sock)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        if self.kind == "hypercorn-tls":
            sock = self.tls_options()["ssl"].wrap_socket(sock, server_hostname="127.0.0.1")
            self._clients.append(sock)
        sock.sendall(
            b"GET /ws/tasks HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += sock.recv(1)
        assert b" 101 " in answer, answer
        for task_id in task_ids:
            sock.sendall(masked_text(msgspec.json.encode({"type": "subscribe", "task_id": task_id})))
            expected = len(msgspec.json.encode({"type": "subscribed", "task_id": task_id})) + 2
            while expected:
                expected -= len(sock.recv(expected))
        return sock


class Client:
    """JSON over a connection of the `websockets` package."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, message: Any) -> None:
        self.connection.send(msgspec.json.encode(message).decode())

    def receive(self, timeout: float = PATIENCE) -> Any:
        return msgspec.json.decode(self.connection.recv(timeout))

    def subscribe(self, task_id: str) -> None:
        self.send({"type": "subscribe", "task_id": task_id})
        assert self.receive() == {"type": "subscribed", "task_id": task_id}


def masked_frame(first_byte: int, payload: bytes) -> bytes:
    """A client's frame, masked with zeros."""
    length = len(payload)
    if length < 126:
        head = bytes((first_byte, 0x80 | length))
    elif length < 65536:
        head = bytes((first_byte, 0x80 | 126)) + length.to_bytes(2)
    else:
        head = bytes((first_byte, 0x80 | 127)) + length.to_bytes(8)
    return head + b"\0\0\0\0" + payload


def masked_text(payload: bytes) -> bytes:
    """A whole text message of a client."""
    return masked_frame(0x81, payload)
