"""Nchan, nginx' module for this, with its own memory: publishers POST to it, no Redis is between."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from benchmarks.doors import Door
from benchmarks.feeds import Feed
from benchmarks.peers.base import Peer, everyone_is_a_task
from benchmarks.servers import Running, ServerProcess, accepts
from benchmarks.wire import SEQUENCE, TIME, Form, Template
from relay.broker.embedded import free_port

_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

_CONFIGURATION = """\
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {directory}/nginx.pid;
events {{ worker_connections 19500; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 1m;
    client_body_buffer_size 1m;
    nchan_max_reserved_memory 512m;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        keepalive_requests 1000000000;
        keepalive_time 24h;
        keepalive_timeout 24h;
        location = /pub {{
            nchan_publisher;
            nchan_channel_id $arg_id;
            nchan_message_buffer_length 10000;
            nchan_message_timeout 60s;
        }}
        location = /sub {{
            nchan_subscriber websocket;
            nchan_channel_id $arg_id;
            nchan_subscriber_first_message newest;
            nchan_websocket_ping_interval 25;
        }}
    }}
}}
"""


class Post(Feed):
    """An HTTP request for each update, pipelined on one connection."""

    answer_mark = b"HTTP/1.1 20"
    refusal_marks = (b"HTTP/1.1 4", b"HTTP/1.1 5")

    def template(self, form: Form) -> Template:
        head = f"POST /pub?id={form.channel} HTTP/1.1\r\nHost: nchan\r\nContent-Length: {len(form.payload)}\r\n\r\n"
        assert SEQUENCE not in head.encode()
        assert TIME not in head.encode()
        return Template(head.encode() + form.payload)


class Nchan(Peer):
    """Debian's libnginx-mod-nchan, one worker."""

    name = "nchan"
    title = "nginx with Nchan"
    language = "c"

    def missing(self) -> str | None:
        if _binary() is None or not _MODULE.exists():
            return "not installed: nginx with Nchan (apt-get install libnginx-mod-nchan)"
        return None

    def start(self, directory: Path) -> Running:
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        configuration = directory / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(module=_MODULE, directory=directory, port=port))
        command = [_binary() or "nginx", "-e", "stderr", "-p", str(directory), "-c", str(configuration)]
        door = Door("/sub?id={task}", ())
        with ExitStack() as stack:
            server = stack.enter_context(ServerProcess(self.name, directory, command))
            server.wait_until(lambda: accepts(port))
            return Running(
                self.name, port, door, everyone_is_a_task(door), Post, port, [server], stack=stack.pop_all()
            )  # fmt: skip


def _binary() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
