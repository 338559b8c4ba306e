"""The proxies of docker/proxies/ as processes, with their configurations; only ports and files are other ones."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from relay.processes import start_child
from tests.harness import ROOT, Server
from tests.ports import free_port

FOLDER = ROOT / "docker" / "proxies"


@dataclass(frozen=True)
class Kind:
    """A proxy: its program, its files (the first is the one that it is given), and its command line."""

    program: str
    files: tuple[str, ...]
    arguments: tuple[str, ...]
    #: The times after which it gives up a silent connection, as its configuration has them.
    idle: str


KINDS = {
    "nginx": Kind(
        "nginx", ("nginx.conf",), ("-e", "stderr", "-g", "daemon off;", "-c"), r"_(?:read|send)_timeout (\d+)s"
    ),
    "haproxy": Kind("haproxy", ("haproxy.cfg",), ("-db", "-f"), r"timeout (?:client|server|tunnel) (\d+)s"),
    "caddy": Kind("caddy", ("Caddyfile",), ("run", "--adapter", "caddyfile", "--config"), r"read_timeout (\d+)s"),
    "traefik": Kind("traefik", ("traefik.yml", "traefik-relay.yml"), ("--configFile",), r"idleTimeout: (\d+)s"),
    "envoy": Kind(
        "envoy", ("envoy.yaml",), ("--concurrency", "1", "--use-dynamic-base-id", "-c"), r"idle_timeout: (\d+)s"
    ),
}


class Proxy(Server):
    """A proxy in front of two relays."""

    name = "proxy"

    def __init__(self, kind: str, directory: Path, relays: tuple[int, int], certificate: tuple[Path, Path]) -> None:
        super().__init__(directory)
        chosen = KINDS[kind]
        self.port = free_port()
        key, chain = certificate
        pem = directory / "tls.pem"
        pem.write_text(chain.read_text() + key.read_text())
        for name in chosen.files:
            (directory / name).write_text(self._adapted((FOLDER / name).read_text(), directory, relays, pem))
        program = shutil.which(chosen.program, path="/usr/local/sbin:/usr/sbin:/sbin") or shutil.which(chosen.program)
        assert program is not None, f"{kind} is missing: run `make test-proxies`, or install Debian's package"
        command = [program, *chosen.arguments, str(directory / chosen.files[0])]
        with self.log.open("wb") as log:
            environ = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "XDG_DATA_HOME": str(directory)}
            self._child = start_child(command, env=environ, cwd=directory, stdout=log, stderr=subprocess.STDOUT)

    @staticmethod
    def _nginx_user() -> str:
        """Who may write into the test's folder: as root, nginx would become another user."""
        return "user root;" if os.getuid() == 0 else ""

    def _adapted(self, text: str, directory: Path, relays: tuple[int, int], pem: Path) -> str:
        changed = text.replace("/etc/relay/tls.pem", str(pem)).replace("/etc/traefik/", f"{directory}/")
        for old, new in zip((8001, 8002), relays, strict=True):
            changed = re.sub(rf"(127\.0\.0\.1:|port_value: ){old}\b", rf"\g<1>{new}", changed)
        # Where it listens: only on loopback, and Caddy under the name in the certificate.
        changed = changed.replace("https://relay.example.com:443", f"https://127.0.0.1:{self.port}")
        changed = re.sub(r"(listen |bind )(?:\*?:)?443\b", rf"\g<1>127.0.0.1:{self.port}", changed)
        changed = re.sub(r'address: ":443"', f'address: "127.0.0.1:{self.port}"', changed)
        changed = changed.replace("address: 0.0.0.0, port_value: 443", f"address: 127.0.0.1, port_value: {self.port}")
        changed = changed.replace("    maxconn 32768", "    maxconn 1000")  # of open files this machine may allow fewer
        if "worker_processes" in text:
            kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            files = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
            changed = changed.replace("worker_processes auto;", f"worker_processes 1; {self._nginx_user()}")
            changed = changed.replace("/run/nginx.pid", f"{directory}/pid").replace("http {", "http { " + files)
        assert changed != text
        return changed
