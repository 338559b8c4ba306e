"""An HTTP server for the tests, in the place of an identity provider or a team's backend."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.http_server import RequestHandler, serving

#: Takes the request's headers; returns the status and the body.
Answer = Callable[[Any], tuple[int, Any]]


class Backend:
    """A server whose answer can be replaced while it runs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.requests = 0
        self.answer: Answer = lambda _: (404, None)


@contextmanager
def backend() -> Iterator[Backend]:
    """A server for the time of the block."""

    class Handler(RequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            status, body = state.answer(self.headers)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.answer(data, "application/json", status)

    with serving(Handler) as port:
        state = Backend(port)
        yield state
