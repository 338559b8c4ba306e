"""`relay status`: what all relays on one Redis do now, from any of them; live, like `top`, on a terminal."""

import ssl
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from os import environ
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import typer
from relay_client.tail.errors import ExitStatus
from rich.console import Console, RenderableType
from rich.live import Live

from relay.commands.errors import CommandError
from relay.commands.relay_urls import base_url, header_value, local_url
from relay.commands.status_view import trouble, view
from relay.config import load
from relay.core.json_errors import NOT_JSON
from relay.core.status import Status

#: Most bytes of an answer: a thousand relays with all that each may report have less.
_MAX_ANSWER = 64 * 1024 * 1024

#: Seconds to wait for an answer. The relay itself waits a second for others that do not answer.
_TIMEOUT = 10.0

#: Least characters of a line in a pipe or a file, where nothing has to fit a screen.
_PIPE_WIDTH = 200

_NEEDED = "one that watches and lists everything, such as `relay token --watch all --list all` prints"
_decode = msgspec.json.Decoder(Status).decode


class Source(NamedTuple):
    """Where the status is read.

    Attributes:
        url: The relay, or the proxy before it.
        path: The path of the status there.
        token: The token to show; None for none.
    """

    url: str
    path: str
    token: str | None


def _source(url: str | None, token: str | None) -> Source:
    """Return where to ask. Raises ConfigError and typer.BadParameter."""
    settings, _ = load()
    if url is not None:
        chosen, named = url, "--url"
    elif url := environ.get("RELAY_URL"):
        chosen, named = url, "RELAY_URL"
    elif settings.admin_bind is not None:
        chosen, named = f"http://{settings.admin_bind}", "RELAY_ADMIN_BIND"
    else:
        chosen, named = local_url(settings), "RELAY_HOST or RELAY_PORT"
    try:
        base = base_url(chosen)
    except ValueError as error:
        raise CommandError(f"{named}: {error}", ExitStatus.USAGE) from None
    if token == "-":
        token = sys.stdin.readline().strip()
    return Source(base, f"{settings.api_prefix}/status", header_value("--token", token))


def _request(source: Source) -> tuple[int, bytes]:
    """Return the status and the body of the answer. Raises OSError and HTTPException."""
    parts = urlsplit(source.url)
    assert parts.hostname is not None
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT)
    headers = {"Accept": "application/json"}
    if source.token is not None:
        headers["Authorization"] = f"Bearer {source.token}"
    try:
        connection.request("GET", parts.path + source.path, headers=headers)
        with connection.getresponse() as response:
            return response.status, response.read(_MAX_ANSWER)
    finally:
        connection.close()


def _refusal(status: int, body: bytes, source: Source) -> CommandError:
    """Return the error of an answer that is no status."""
    place = source.url + source.path
    code = said = ""
    with suppress(*NOT_JSON, AttributeError):
        answer = msgspec.json.decode(body)
        code, said = str(answer.get("code", "")), str(answer.get("message", ""))
    match status:
        case 401 if source.token is None:
            message = f"{source.url} asks for a token: give one with --token, {_NEEDED}"
        case 401:
            message = f"{source.url} refuses the token: {said or 'it does not say why'}"
        case 403 if code == "local_only":
            message = f"{source.url}: {said}"
        case 403:
            message = f"{source.url} refuses this grant: an operator's token is {_NEEDED}"
        case 404:
            message = f"no status is at {place}: RELAY_ADMIN_BIND moves it to that address alone, RELAY_API_PREFIX to its path"
        case 429 | 502 | 503 | 504:
            return CommandError(f"{place} cannot answer now: {status} {said}".rstrip(), ExitStatus.UNREACHABLE)
        case _:
            message = f"what answers at {place} is no relay that has a status: {status} {said}".rstrip()
    return CommandError(message, ExitStatus.REFUSED)


def fetch(source: Source) -> tuple[Status, bytes]:
    """Return the status, and the JSON that it was read from.

    Raises:
        CommandError: The relay cannot be reached, or refuses.
    """
    place = source.url + source.path
    try:
        code, body = _request(source)
    except ssl.SSLCertVerificationError as error:
        raise CommandError(
            f"the certificate of {source.url} is not trusted: {error.verify_message}", ExitStatus.UNREACHABLE
        ) from None
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise CommandError(
            f"cannot reach {source.url}: {reason}. Start the relay, or say where it is with --url or RELAY_URL",
            ExitStatus.UNREACHABLE,
        ) from None
    if code != 200:
        raise _refusal(code, body, source)
    try:
        return _decode(body), body
    except NOT_JSON:
        raise CommandError(
            f"what answers at {place} is no status of a relay of this version", ExitStatus.REFUSED
        ) from None


def _follow(source: Source, first: Status, interval: float, console: Console) -> None:
    """Show the status again and again, until Ctrl-C. A relay that goes away is shown as such, and asked again."""
    shown: RenderableType = view(first, source.url)
    with Live(shown, console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                status, _ = fetch(source)
            except CommandError as error:
                live.update(trouble(str(error), shown), refresh=True)
                continue
            shown = view(status, source.url)
            live.update(shown, refresh=True)


def run(
    url: str | None,
    token: str | None,
    interval: float,
    *,
    once: bool,
    as_json: bool,
) -> ExitStatus:
    """Show the status: live on a terminal, once elsewhere.

    Args:
        url: The relay; None takes it from ``RELAY_URL`` or the settings.
        token: The token to show; "-" reads it from stdin.
        interval: Seconds between two looks.
        once: Show it once on a terminal, too.
        as_json: Print it once, as the relay's JSON.

    Returns:
        The exit status.

    Raises:
        CommandError: The relay cannot be reached, or refuses.
        ConfigError: The settings of the environment are wrong.
    """
    source = _source(url, token)
    status, body = fetch(source)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _PIPE_WIDTH))
    if as_json:
        typer.echo(body.decode())
    elif once or not console.is_terminal or console.is_dumb_terminal:
        console.print(view(status, source.url))
    else:
        _follow(source, status, interval, console)
    return ExitStatus.SUCCESS
