"""The checks in the order of an update's way, each with a deadline; what they found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import redis
import trio

from relay.config import RedisSettings, Settings
from relay.doctor import local_checks, redis_checks, relay_checks
from relay.doctor.problems import Finding, NotCheckedError, Severity, found

#: What these are about cannot be checked further: they end their stage.
_UNREACHABLE = frozenset({"redis-unreachable", "relay-unreachable"})


class Check(NamedTuple):
    """One check.

    Attributes:
        title: What is right if it finds nothing.
        run: Returns what it found; runs in a thread. Raises NotCheckedError if it cannot be made.
        on_timeout: The problem that it is if there is no answer in time.
        ends_stage: Whether the rest of its stage is left out when it finds an error, or cannot be made.
        seconds: How long it takes beyond the time that it waits for answers.
    """

    title: str
    run: Callable[[], Sequence[Finding]]
    on_timeout: str
    ends_stage: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check.

    Attributes:
        title: That of the check.
        findings: What it found.
        not_checked: Why it was not made; None if it was.
    """

    title: str
    findings: Sequence[Finding] = ()
    not_checked: str | None = None

    @property
    def severity(self) -> Severity | None:
        """The worst severity; None if it found nothing."""
        severities = {finding.problem.severity for finding in self.findings}
        return next((each for each in (Severity.ERROR, Severity.WARNING) if each in severities), None)


@dataclass(slots=True)
class Report:
    """The results of all checks, in their order."""

    results: list[Result] = field(default_factory=list)

    @property
    def severity(self) -> Severity | None:
        """The worst severity; None if nothing was found."""
        severities = {result.severity for result in self.results}
        return next((each for each in (Severity.ERROR, Severity.WARNING) if each in severities), None)

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "severity": self.severity or "none",
            "checks": [
                {
                    "title": result.title,
                    "result": "not_checked" if result.not_checked is not None else result.severity or "ok",
                    "reason": result.not_checked,
                    "findings": [
                        {
                            "id": finding.problem.id,
                            "severity": finding.problem.severity,
                            "title": finding.problem.title,
                            "detail": finding.detail,
                            "remedy": finding.problem.remedy,
                        }
                        for finding in result.findings
                    ],
                }
                for result in self.results
            ],
        }


def local_stage(settings: Settings, redis_settings: RedisSettings, token: str | None, timeout: float) -> list[Check]:
    """Return the checks of this machine."""
    checks = [
        Check(
            "settings are known and safe",
            partial(local_checks.check_settings, settings, redis_settings),
            "setting-invalid",
        ),
        Check("enough files may be open", partial(local_checks.check_files, settings), "file-limit"),
        Check("the port is free, or a relay's", partial(relay_checks.check_port, settings, timeout), "port-taken"),
        Check("many connections may wait", partial(relay_checks.check_backlog, settings, timeout), "port-taken"),
    ]
    if token is not None:
        checks.append(Check("the token holds", partial(local_checks.check_token, token, settings), "token-malformed"))
    return checks


def redis_stage(url: str, settings: Settings, redis_settings: RedisSettings, timeout: float) -> list[Check]:
    """Return the checks of Redis."""
    late = "redis-unreachable"
    buffers = partial(redis_checks.check_buffers, url, redis_settings, settings.max_update_bytes, timeout)
    permissions = partial(redis_checks.check_permissions, url, redis_settings, settings, timeout)
    return [
        Check("Redis answers", partial(redis_checks.check_connection, url, redis_settings, timeout), late, True),
        Check("Redis suits Relay", partial(redis_checks.check_server, url, redis_settings, timeout), late),
        Check("subscribers have room in Redis", buffers, late),
        Check("Redis takes all commands, keys and channels", permissions, late),
    ]


def relay_stage(client: relay_checks.Client, hold: float = 0.0) -> list[Check]:
    """Return the checks of what a client meets; with ``hold``, a stream is kept open for so many seconds."""
    late = "relay-unreachable"
    checks = [
        Check("the relay is ready", partial(relay_checks.check_ready, client), late),
        Check("all relays answer, and publishes can be read", partial(relay_checks.check_relays, client), late),
        Check("a WebSocket opens", partial(relay_checks.check_websocket, client), late),
        Check("events arrive at once, and resume", partial(relay_checks.check_events, client), "proxy-buffers"),
    ]
    if hold:
        holds = partial(relay_checks.check_hold, client, hold)
        checks.append(Check(f"an event stream lasts {hold:g} s", holds, "proxy-buffers", seconds=hold))
    return checks


async def _run(check: Check, deadline: float) -> Result:
    deadline += check.seconds
    with trio.move_on_after(deadline):
        try:
            # Its sockets have time-outs: a thread that is left behind ends soon.
            return Result(check.title, await trio.to_thread.run_sync(check.run, abandon_on_cancel=True))
        except NotCheckedError as error:
            return Result(check.title, not_checked=str(error))
        except (redis.RedisError, OSError, UnicodeError) as error:
            return Result(check.title, [found(check.on_timeout, str(error))])
    return Result(check.title, [found(check.on_timeout, f"no answer within {deadline:g} s")])


async def examine(stages: Sequence[Sequence[Check]], deadline: float) -> Report:
    """Make the checks, one after the other. Cancelling leaves the one that runs.

    Args:
        stages: The checks, by what they are about.
        deadline: Seconds for each check.

    Returns:
        What was found.
    """
    report = Report()
    for stage in stages:
        is_over = False
        for check in stage:
            if is_over:
                report.results.append(Result(check.title, not_checked="an earlier check did not pass"))
                continue
            result = await _run(check, deadline)
            report.results.append(result)
            is_unreachable = any(finding.problem.id in _UNREACHABLE for finding in result.findings)
            is_failed = result.severity is Severity.ERROR or result.not_checked is not None
            is_over = is_unreachable or (check.ends_stage and is_failed)
    return report
