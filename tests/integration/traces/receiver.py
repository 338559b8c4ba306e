"""A receiver of OTLP over HTTP, as a collector is one: it decodes the protobuf requests and keeps the spans."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.harness import eventually
from tests.http_server import RequestHandler, serving


class Span(NamedTuple):
    """A span as it was exported; ids in hexadecimal digits, times in nanoseconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    is_error: bool


class Receiver:
    """What was exported.

    Attributes:
        url: For ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        requests: How many requests have come.
        bodies: What they had in them, as it came.
        hangs: Set, requests are not answered until it is cleared.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests = 0
        self.bodies = b""
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._may_answer = threading.Event()
        self._may_answer.set()

    def hang(self) -> None:
        self._may_answer.clear()

    def answer(self) -> None:
        self._may_answer.set()

    def take(self, body: bytes) -> None:
        with self._lock:
            self.requests += 1
            self.bodies += body
            self._spans += _spans_of(ExportTraceServiceRequest.FromString(body))
        self._may_answer.wait()

    @property
    def spans(self) -> list[Span]:
        with self._lock:
            return list(self._spans)

    def of_trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, by their starts."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start)

    def wait_for(self, trace_id: str, count: int) -> list[Span]:
        """Wait for so many spans of a trace."""
        eventually(lambda: len(self.of_trace(trace_id)) >= count)
        return self.of_trace(trace_id)


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = next(each.value.string_value for each in resource.resource.attributes if each.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                times = span.start_time_unix_nano, span.end_time_unix_nano
                yield Span(service, span.name, *ids, *times, values, span.status.code == 2)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive spans for the time of the block."""

    class Handler(RequestHandler):
        def do_POST(self) -> None:
            body = self.read_body()
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            receiver.take(body)
            self.answer(b"", "application/x-protobuf")

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A relay that has ended does not wait for the answer."""

    with serving(Handler, Server) as port:
        receiver = Receiver(port)
        try:
            yield receiver
        finally:
            receiver.answer()
