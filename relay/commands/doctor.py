"""`relay doctor`: what is wrong on the way of an update, and what to do."""

import json
import sys

import trio
import typer
from relay_client.tail.errors import ExitStatus
from rich.console import Console
from rich.text import Text

from relay import logs
from relay.broker.embedded import DEFAULT_PORT
from relay.commands.relay_urls import base_url, header_value
from relay.config import load
from relay.core.errors import ConfigError
from relay.doctor.examination import Check, Report, Result, examine, local_stage, redis_stage, relay_stage
from relay.doctor.problems import Severity, found
from relay.doctor.relay_checks import Client

#: A check makes a few connections, each within the time-out that was given.
_TIMEOUTS_IN_CHECK = 4

_STYLES = {Severity.ERROR: ("FAILED ", "bold red"), Severity.WARNING: ("WARNING", "yellow")}


def _stages(
    client: Client | None, token: str | None, redis_url: str | None, timeout: float, hold: float
) -> list[list[Check]]:
    settings, redis_settings = load(redis_url=redis_url)
    stages = [local_stage(settings, redis_settings, token, timeout)]
    chosen = redis_settings.configured_url() or f"redis://127.0.0.1:{DEFAULT_PORT}/0"
    stages.append(redis_stage(chosen, settings, redis_settings, timeout))
    if client is not None:
        stages.append(relay_stage(client, hold))
    return stages


def _client(url: str | None, origin: str | None, token: str | None, timeout: float) -> Client | None:
    if url is None:
        return None
    try:
        return Client(base_url(url), header_value("--origin", origin), token, timeout)
    except ValueError as error:
        raise typer.BadParameter(f"--url {error}") from None


def _show(result: Result, console: Console) -> None:
    if result.not_checked is not None:
        console.print(Text("skipped", "dim"), Text(f"{result.title}: {result.not_checked}", "dim"), soft_wrap=True)
        return
    if not result.findings:
        console.print(Text("ok     ", "green"), Text(result.title), soft_wrap=True)
    for finding in result.findings:
        word, style = _STYLES[finding.problem.severity]
        console.print(Text(word, style), Text(finding.problem.title, "bold"), soft_wrap=True)
        console.print(Text(f"        {finding.detail}"), soft_wrap=True)
        console.print(Text(f"        {finding.problem.remedy}"), soft_wrap=True)
        console.print(Text(f"        docs/troubleshoot.md#{finding.problem.id}", "dim"), soft_wrap=True)


def run(
    url: str | None,
    origin: str | None,
    token: str | None,
    redis_url: str | None,
    timeout: float,
    hold: float,
    *,
    as_json: bool,
) -> ExitStatus:
    """Make the checks, and show what they found.

    Args:
        url: The relay, or the proxy before it; None leaves these checks out.
        origin: The origin of the page that connects.
        token: The token of a client; "-" reads it from stdin.
        redis_url: Redis, in place of the environment's.
        timeout: Seconds to wait for each answer.
        hold: Seconds for which an event stream is kept open; 0 leaves that out.
        as_json: Print JSON.

    Returns:
        The exit status: by the worst severity.
    """
    logs.configure("CRITICAL")
    if token == "-":
        token = sys.stdin.readline().strip()
    client = _client(url, origin, header_value("--token", token), timeout)
    try:
        stages = _stages(client, token, redis_url, timeout, hold)
    except ConfigError as error:
        lines = str(error).splitlines()
        report = Report([Result("settings are valid", [found("setting-invalid", line) for line in lines])])
    else:
        report = trio.run(examine, stages, _TIMEOUTS_IN_CHECK * timeout)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        console = Console(highlight=False)
        for result in report.results:
            _show(result, console)
    match report.severity:
        case Severity.ERROR:
            return ExitStatus.ERRORS_FOUND
        case Severity.WARNING:
            return ExitStatus.WARNINGS_FOUND
        case _:
            return ExitStatus.SUCCESS
