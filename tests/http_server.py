"""HTTP servers of a test's own, for the time of a block."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any


class RequestHandler(BaseHTTPRequestHandler):
    """Answers requests; nothing is logged."""

    def answer(
        self, body: bytes, kind: str = "text/html", status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Send a response with a body of this content type."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def read_body(self) -> bytes:
        """Return the body of the request."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(handler: type[RequestHandler], server_class: type[HTTPServer] = ThreadingHTTPServer) -> Iterator[int]:
    """Have a handler answer the requests to a free port of 127.0.0.1, which is yielded."""
    with server_class(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
