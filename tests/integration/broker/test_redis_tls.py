"""A Redis that takes TLS connections only, with a password and a certificate of an authority of its own."""

import ssl
import subprocess
from pathlib import Path

import msgspec
import pytest
import redis

from relay.processes import start_child
from tests.harness import RelayServer, Server, eventually
from tests.ports import free_port

PASSWORD = "correct horse"


class TlsRedis(Server):
    """Debian's redis-server: the Valkey that Relay brings along has no TLS."""

    name = "redis-server"

    def __init__(self, directory: Path, certificate: tuple[Path, Path]) -> None:
        super().__init__(directory)
        self.port = free_port()
        key, chain = certificate
        self.authority = chain.parent / "ca.pem"
        options = {
            "port": "0",
            "tls-port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "save": "",
            "requirepass": PASSWORD,
            "tls-key-file": str(key),
            "tls-cert-file": str(chain),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self.log.open("ab") as log:
            self._child = start_child(["redis-server", *arguments], stdout=log, stderr=subprocess.STDOUT)
        eventually(self.answers)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=PASSWORD, ssl=True, ssl_ca_certs=str(self.authority))

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.RedisError, ssl.SSLError):
                return False


@pytest.mark.parametrize("form", ["url", "parts"])
def test_a_relay_uses_redis_over_tls(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    home = tmp_path / "redis"
    home.mkdir()
    with TlsRedis(home, certificate) as server:
        url = f"rediss://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{server.port}/0?ssl_ca_certs={server.authority}"
        relay = RelayServer(tmp_path, url if form == "url" else None, wait=False)
        if form == "parts":
            relay.kill()
            relay._environ |= {
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": str(server.port),
                "REDIS_PASSWORD": PASSWORD,
                "REDIS_SSL": "true",
                "REDIS_SSL_CA_CERTS": str(server.authority),
            }
            relay.start()
        with relay:
            eventually(relay.is_ready)
            with relay.client("t") as client:
                message = {"type": "task_update", "task_id": "t", "data": {"a": 1}}
                with server.client() as publisher:
                    publisher.publish("task_updates", msgspec.json.encode(message))
                assert client.receive() == message
            assert PASSWORD not in relay.logged()


def test_an_unknown_authority_is_told(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    home = tmp_path / "redis"
    home.mkdir()
    with TlsRedis(home, certificate) as server:
        url = f"rediss://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{server.port}/0"
        with RelayServer(tmp_path, url, wait=False) as relay:
            eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in relay.logged())
            assert relay.get("/readyz")[0] in (0, 503)
