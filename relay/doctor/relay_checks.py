"""What a client would meet at a URL: the relay itself, or the proxy before it. Everything here runs in a thread."""

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from relay.config import Settings
from relay.core.json_errors import NOT_JSON
from relay.core.status import Status
from relay.doctor.listeners import listeners, longest_backlog, overflows
from relay.doctor.problems import Finding, NotCheckedError, found
from relay.server.operator_paths import STATUS
from relay.server.socket_options import BACKLOG

#: Most bytes of an answer that are read.
_MAX_ANSWER = 16 * 1024 * 1024

#: Seconds by which the clocks may differ: the Date header has whole seconds, and the answer took its time.
_MAX_SKEW = 5.0

#: Seconds for which a malformed publish counts as one that goes on.
_RECENT = 600.0

#: Seconds after which relays that did not answer are asked again. A relay asks them at most once a second.
_PAUSE = 1.1

#: Which problem it is when the relay refuses a token with this code.
_TOKEN_CODES = {
    "bad_token": "token-malformed",
    "token_expired": "token-expired",
    "token_not_yet_valid": "token-not-yet-valid",
    "wrong_audience": "token-audience",
    "wrong_issuer": "token-issuer",
}


class Client(NamedTuple):
    """The client that the checks play.

    Attributes:
        url: Where the relay is: http or https, a host, and a path if a proxy has the relay below one.
        origin: The origin of the page; None for none.
        token: The token that it shows; None for none.
        timeout: Seconds to wait for each answer.
    """

    url: str
    origin: str | None
    token: str | None
    timeout: float


class Answer(NamedTuple):
    """The beginning of a response.

    Attributes:
        status: Its status.
        date: Its Date header, or "".
        body: What was read of it.
    """

    status: int
    date: str
    body: bytes


@contextmanager
def _opened(client: Client, path: str, headers: dict[str, str]) -> Iterator[tuple[HTTPResponse, socket.socket]]:
    """The answer to a GET, of which the body is yet to be read, and its socket.

    Raises:
        OSError: There is none in time.
        HTTPException: It is malformed.
    """
    parts = urlsplit(client.url)
    assert parts.hostname is not None
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=client.timeout)
    if client.token is not None:
        headers = headers | {"Authorization": f"Bearer {client.token}"}
    try:
        connection.request("GET", parts.path + path, headers=headers)
        sock = connection.sock
        with connection.getresponse() as response:
            yield response, sock
    finally:
        connection.close()


def _parts(response: HTTPResponse, sock: socket.socket, seconds: float) -> Iterator[bytes]:
    """Yield what arrives of a body, until it ends or the time is over."""
    deadline = time.monotonic() + seconds
    with suppress(TimeoutError):
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            part = response.read1(4096)
            if not part:
                return
            yield part


def _get(
    client: Client, path: str, headers: dict[str, str], is_enough: Callable[[bytes], bool] | None = None
) -> Answer:
    """Return the answer to a GET, read until it ends or is enough. Raises as `_opened`."""
    with _opened(client, path, headers) as (response, sock):
        body = b""
        if response.status != 101:
            for part in _parts(response, sock, client.timeout):
                body += part
                if len(body) > _MAX_ANSWER or (is_enough is not None and is_enough(body)):
                    break
        return Answer(response.status, response.getheader("date", ""), body)


def _unreachable(error: Exception) -> list[Finding]:
    reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    return [found("relay-unreachable", reason or type(error).__name__)]


def _code_of(body: bytes) -> tuple[str, str]:
    """Return the code and the message of a refusal."""
    with suppress(ValueError, AttributeError):
        answer = json.loads(body)
        return str(answer.get("code", answer.get("status", ""))), str(answer.get("message", ""))
    return body.decode(errors="replace").strip()[:64], ""


def _refusal(answer: Answer, client: Client) -> list[Finding]:
    """Return why a client is refused."""
    code, message = _code_of(answer.body)
    if code in ("origin", "cookie_origin"):
        return [found("origin-refused", f"the origin {client.origin}")]
    if code == "host":
        return [found("host-refused", f"the name {urlsplit(client.url).hostname}")]
    if answer.status in (502, 504):
        return [found("relay-unreachable", f"a proxy answers {answer.status}")]
    if code in _TOKEN_CODES:
        return [found(_TOKEN_CODES[code], message)]
    if answer.status == 401 and client.token is None:
        raise NotCheckedError("clients need a token here: give one with --token")
    if answer.status == 401:
        return [found("token-refused", message or code)]
    if answer.status == 403 and client.token is not None and code == "forbidden":
        raise NotCheckedError("the token does not let its client follow general updates: give one with --watch general")
    return [found("relay-refuses", f"{answer.status} {message or code}".strip())]


def check_ready(client: Client) -> list[Finding]:
    """Ask the relay whether it is ready, and compare the clocks."""
    try:
        answer = _get(client, "/readyz", {})
    except (OSError, HTTPException) as error:
        return _unreachable(error)
    findings = _skew(answer.date)
    if answer.status == 200:
        return findings
    if answer.status == 503 and _code_of(answer.body)[0]:
        return [*findings, found("relay-not-ready", _code_of(answer.body)[0])]
    if answer.status in (502, 504):
        return _refusal(answer, client)
    if findings:
        return findings
    raise NotCheckedError(f"/readyz answers {answer.status}: a proxy may hide it")


def _skew(date: str) -> list[Finding]:
    try:
        skew = time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return []
    # Whole seconds are rounded down: the mean error is half a second.
    return [found("clock-skew", f"they differ by {abs(skew):.0f} s")] if abs(skew - 0.5) > _MAX_SKEW else []


def check_websocket(client: Client) -> list[Finding]:
    """Open a WebSocket as a page of the origin would, and hang up."""
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "cmVsYXktZG9jdG9yLWtleQ==",
        "Sec-WebSocket-Version": "13",
    }
    if client.origin is not None:
        headers["Origin"] = client.origin
    try:
        answer = _get(client, "/ws/tasks", headers)
    except (OSError, HTTPException) as error:
        return _unreachable(error)
    if answer.status == 101:
        return []
    if answer.status in (200, 400, 404, 426):
        return [found("proxy-upgrade", f"the handshake was answered with {answer.status}, not 101")]
    return _refusal(answer, client)


def check_events(client: Client) -> list[Finding]:
    """Open an event stream that resumes from an id that is none: the relay says at once that this cannot be."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "relay-doctor"}
    if client.origin is not None:
        headers["Origin"] = client.origin
    try:
        answer = _get(client, "/events?general=1", headers, lambda body: b"event: reset" in body or b"id: " in body)
    except TimeoutError:
        return [found("proxy-buffers", f"nothing of an event stream arrived within {client.timeout:g} s")]
    except (OSError, HTTPException) as error:
        return _unreachable(error)
    if answer.status != 200:
        return _refusal(answer, client)
    if b"event: reset" in answer.body:
        return []
    if b"id: " in answer.body:
        return [found("proxy-last-event-id", "the relay took the stream for a new one")]
    if b"retry: " in answer.body:
        raise NotCheckedError("the relay sent no event: it is not ready, or full")
    return [found("proxy-buffers", f"no event arrived within {client.timeout:g} s")]


def _status(client: Client) -> Status:
    """Return the status of all relays. Raises NotCheckedError, and as `_opened`."""
    answer = _get(client, STATUS, {})
    try:
        return msgspec.json.decode(answer.body, type=Status)
    except NOT_JSON:
        raise NotCheckedError(
            f"{STATUS} answers {answer.status}: ask on the relay's machine, at RELAY_ADMIN_BIND, or with a token that watches "
            "and lists everything"
        ) from None


def check_relays(client: Client) -> list[Finding]:
    """Ask for the status of all relays: who does not answer, who takes no clients, and who publishes what is malformed."""
    try:
        status = _status(client)
        if status.silent:  # a busy one may have needed longer
            time.sleep(_PAUSE)
            status = _status(client)
    except (OSError, HTTPException) as error:
        return _unreachable(error)
    findings = []
    if status.silent:
        findings.append(found("relay-silent", ", ".join(status.silent)))
    for relay in status.relays:
        if relay.status != "ready" and relay.id != status.answered_by:
            findings.append(found("relay-not-ready", f"{relay.name}: {relay.status}"))
    for each in status.malformed:
        if each.seconds_ago <= _RECENT:
            who = each.source if each.client is None else f"{each.source}, {each.client}"
            detail = f"{who}: {each.error}; {each.count} so far, the last one {each.seconds_ago:.0f} s ago"
            findings.append(found("publishes-malformed", detail))
    return findings


def check_hold(client: Client, seconds: float) -> list[Finding]:
    """Keep an event stream open for some seconds: the relay's heartbeats keep it alive, so only a proxy may end it."""
    begun = time.monotonic()
    try:
        with _opened(client, "/events?general=1", {"Accept": "text/event-stream"}) as (response, sock):
            if response.status != 200:
                raise NotCheckedError(f"no event stream begins: {response.status}")
            for _ in _parts(response, sock, seconds):
                pass
    except TimeoutError:
        raise NotCheckedError("no event stream begins") from None
    except (OSError, HTTPException) as error:
        if isinstance(error, ConnectionRefusedError):
            return _unreachable(error)
    lasted = time.monotonic() - begun
    return [] if lasted >= seconds else [found("proxy-cuts", f"an event stream ended after {lasted:.0f} s")]


def check_port(settings: Settings, timeout: float) -> list[Finding]:
    """Look at who listens where this machine's relay would, if anybody does."""
    if settings.port == 0:
        return []
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    place = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
    try:
        answer = _get(Client(f"http://{place}", None, None, timeout), "/healthz", {})
    except (ConnectionRefusedError, ConnectionAbortedError):
        return []
    except (OSError, HTTPException) as error:
        return [found("port-taken", f"what listens on {place} is no relay: {error or type(error).__name__}")]
    is_relay = _code_of(answer.body)[0] == "ok"
    return [] if is_relay else [found("port-taken", f"what listens on {place} is no relay: it answers {answer.status}")]


def check_backlog(settings: Settings, timeout: float) -> list[Finding]:
    """Compare how many connections may wait here with what a relay asks for, and with what one that runs has got."""
    try:
        granted = longest_backlog()
    except (OSError, ValueError):
        raise NotCheckedError("this system does not say how long a backlog may be") from None
    details = []
    if granted < BACKLOG:
        details.append(f"a relay asks for {BACKLOG}, and net.core.somaxconn grants {granted}")
    shortest = _shortest_backlog(settings, timeout)
    if shortest is not None and shortest < min(BACKLOG, granted):
        details.append(f"what listens on port {settings.port} has a backlog of {shortest}")
    if details and (count := overflows()):
        details.append(f"{count} connections of all programs here have met a full one since the machine started")
    return [found("backlog", "; ".join(details))] if details else []


def _shortest_backlog(settings: Settings, timeout: float) -> int | None:
    """Return the shortest backlog of the relay that listens here; None if none does, or that is not known."""
    if check_port(settings, timeout):
        return None  # it is no relay
    with suppress(OSError):
        return min((each.backlog for each in listeners() if each.port == settings.port), default=None)
    return None
