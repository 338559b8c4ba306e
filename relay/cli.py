"""The command `relay`: its commands and options, and its exit statuses.

What a command needs is imported when it runs: `relay --version`, `--help` and the completion of a shell must not take the half
second of CPU that the server's packages cost.
"""

import gc
import sys
from typing import Annotated

import typer
from relay_client.errors import RelayClientError
from relay_client.tail.errors import MEANINGS, ExitStatus, TailError

from relay import __version__
from relay.commands.errors import CommandError
from relay.core.errors import BrokerRefused, BrokerUnavailable, ConfigError, RelayError, leaves

_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(no_args_is_help=True, context_settings=_HELP, help="Live task updates from Redis to browsers.")
key_app = typer.Typer(no_args_is_help=True, context_settings=_HELP, help="API keys for services.")
app.add_typer(key_app, name="key")
publish_app = typer.Typer(no_args_is_help=True, context_settings=_HELP, help="Publish an update, as a service would.")
app.add_typer(publish_app, name="publish")


def _ends_with(*statuses: ExitStatus) -> str:
    """Return a command's last line of help: the exit statuses that it has besides those of all commands."""
    meanings = {ExitStatus.SUCCESS: "success", ExitStatus.USAGE: MEANINGS[ExitStatus.USAGE]}
    meanings |= {status: MEANINGS[status] for status in statuses}
    said = "; ".join(f"{status:d} {meanings[status]}" for status in sorted(meanings))
    return f"Exit status: {said.replace('`', '')}."


#: Those of commands that use Redis or a relay.
_OF_A_SERVER = ExitStatus.UNREACHABLE, ExitStatus.REFUSED

Scopes = Annotated[
    list[str] | None,
    typer.Option(metavar="SCOPE", help="task:ID, prefix:ID..., channel:NAME, owned, general or all; may be repeated."),
]
ListScopes = Annotated[
    list[str] | None, typer.Option("--list", metavar="SCOPE", help="The same, for finding tasks in lists.")
]
RevokeScopes = Annotated[
    list[str] | None, typer.Option("--revoke", metavar="SCOPE", help="all: revoking the grants of others.")
]
RedisUrl = Annotated[str | None, typer.Option("--redis-url", help="Redis to use; default: REDIS_URL, REDIS_HOST, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]
Fields = Annotated[list[str], typer.Argument(help="Fields as key=value; values may be JSON.", metavar="KEY=VALUE...")]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _relay(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command("serve", epilog=_ends_with())
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: RELAY_HOST or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: RELAY_PORT or 8000.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes behind the port; default: RELAY_WORKERS or 1.")] = None,
    redis_url: RedisUrl = None,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    liveness_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    worker: Annotated[int, typer.Option(hidden=True)] = 0,
    admin_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the relay until SIGTERM or Ctrl-C. With no Redis configured it starts an embedded one.

    \b
    Examples:
      relay serve
      relay serve --host 0.0.0.0 --workers 4 --redis-url redis://redis.example:6379/0
    """
    gc.disable()  # a tenth of the time that importing takes: what it makes stays, and the collector looks at it again and again
    from relay.commands import serve

    gc.enable()
    serve.run(host, port, workers, redis_url, fd, liveness_fd, worker, admin_fd)


@app.command("demo", epilog=_ends_with())
def demo_command(
    seconds: Annotated[float | None, typer.Option(metavar="N", help="End after so long; default: at Ctrl-C.")] = None,
) -> None:
    """Run a relay with tasks that show what it does: open the address that it prints. Needs trio-relay[demo].

    \b
    Examples:
      relay demo
      relay demo --seconds 60
    """
    from relay.commands import demo

    demo.run(seconds)


@publish_app.command("task", epilog=_ends_with(*_OF_A_SERVER))
def publish_task(
    task_id: Annotated[str, typer.Argument(help="The task.")],
    fields: Fields,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish changed fields of a task.

    \b
    Examples:
      relay publish task demo status=in_progress progress=40 message=Rendering
      relay publish task demo status=completed 'result={"pages": 12}' --json
    """
    from relay.commands import publish

    publish.publish_task(task_id, fields, redis_url, as_json=as_json)


@publish_app.command("general", epilog=_ends_with(*_OF_A_SERVER))
def publish_general(fields: Fields, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Publish something for every connected client.

    \b
    Examples:
      relay publish general 'news=We are back at 14:00'
    """
    from relay.commands import publish

    publish.publish_general(fields, redis_url, as_json=as_json)


@app.command(epilog=_ends_with(ExitStatus.TASK_FAILED, ExitStatus.TASK_CANCELLED, *_OF_A_SERVER))
def tail(
    task: Annotated[list[str] | None, typer.Option("--task", help="A task to follow; may be repeated.")] = None,
    general: Annotated[bool, typer.Option("--general", help="Show general updates too.")] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Follow also the tasks that there are, and those that are created: the last 200."),
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on when the tasks have ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON on a terminal too, as in a pipe.")] = False,
    url: Annotated[
        str | None,
        typer.Option(
            help="The relay, https://host, or its WebSocket, wss://host/ws/tasks; default: RELAY_URL, RELAY_HOST, ..."
        ),
    ] = None,
) -> None:
    """Show what a client receives: the updates of tasks, or, without --task, the general ones.

    Ends when all tasks given with --task have ended. On a terminal tasks have progress bars; in a pipe every message is a line
    of JSON.

    \b
    Examples:
      relay tail --task demo
      relay tail --all --url https://relay.example.com
      relay tail --general --json | head -1
    """
    from relay.commands import tail as command

    raise typer.Exit(
        command.run(url, task or [], general=general, all_tasks=everything, keep_running=follow, as_json=as_json)
    )


@app.command(epilog=_ends_with(ExitStatus.WARNINGS_FOUND, ExitStatus.ERRORS_FOUND))
def doctor(
    url: Annotated[
        str | None, typer.Option(help="The relay as its clients reach it, such as https://relay.example.com.")
    ] = None,
    origin: Annotated[str | None, typer.Option(help="Connect as a page of this origin would.")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Connect with this token; - reads it from stdin, so that no list of processes has it."),
    ] = None,
    redis_url: RedisUrl = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=60, metavar="SECONDS", help="How long to wait for each answer.")
    ] = 3.0,
    hold: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            metavar="SECONDS",
            help="Keep an event stream open so long: does a proxy cut it? Most do at 60 s.",
        ),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")] = False,
) -> None:
    """Follow the way of an update, and say what is wrong on it and what to do.

    Checks the settings of this environment, Redis, and with --url the relay and the proxy before it. Changes nothing.

    \b
    Examples:
      relay doctor
      relay doctor --url https://relay.example.com --origin https://app.example.com
      relay token --watch general | relay doctor --url https://relay.example.com --token - --json
    """
    from relay.commands import doctor as command

    raise typer.Exit(command.run(url, origin, token, redis_url, timeout, hold, as_json=as_json))


@app.command(epilog=_ends_with(*_OF_A_SERVER))
def status(
    url: Annotated[
        str | None,
        typer.Option(
            help="A relay, https://host, or its WebSocket; default: RELAY_URL, RELAY_ADMIN_BIND, RELAY_HOST, ..."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Show this token; - reads it from stdin, so that no list of processes has it."),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=1, max=3600, metavar="SECONDS", help="How long to wait between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once on a terminal, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, once, for machines.")] = False,
) -> None:
    """Show what all relays on one Redis do now, live as `top` does; in a pipe, once.

    Relays, connections by way in and transport, rates, lag, Redis' memory, the slowest clients, and who publishes what is
    malformed. Any relay knows of all. Ctrl-C ends it.

    \b
    Examples:
      relay status
      relay status --url https://relay.example.com --once
      relay token --watch all --list all | relay status --token - --json
    """
    from relay.commands import status as command

    raise typer.Exit(command.run(url, token, interval, once=once, as_json=as_json))


@app.command(epilog=_ends_with())
def token(
    watch: Scopes = None,
    list_scopes: ListScopes = None,
    publish: Scopes = None,
    cancel: Scopes = None,
    revoke: RevokeScopes = None,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long the token holds: 30s, 15m, 8h or 7d.")] = "15m",
    subject: Annotated[str | None, typer.Option("--sub", help="The user or service that the token is for.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="A group that it belongs to; may be repeated.")] = None,
    key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Private key (PEM) to sign with, in place of RELAY_JWT_SECRET.")
    ] = None,
    algorithm: Annotated[str, typer.Option(help="Algorithm of that key: RS256, PS256, ES256 or EdDSA.")] = "EdDSA",
    key_id: Annotated[str | None, typer.Option(metavar="KID", help="The `kid` of the key.")] = None,
) -> None:
    """Print a token that a relay accepts, signed with RELAY_JWT_SECRET of the environment or with a private key.

    \b
    Examples:
      relay token --watch task:demo
      relay token --watch owned --list owned --sub user:7 --group staff --ttl 8h
      relay token --publish all --key-file private.pem --algorithm ES256
    """
    try:
        from relay.commands import token as command
    except ImportError as error:
        raise ConfigError(f"a package for grants is missing ({error}). Run: pip install 'trio-relay[grants]'") from None
    scopes = {"watch": watch, "list": list_scopes, "publish": publish, "cancel": cancel, "revoke": revoke}
    command.run(scopes, ttl, subject, group or [], key_file, algorithm, key_id)


@app.command(epilog=_ends_with(*_OF_A_SERVER))
def revoke(
    subject: Annotated[str | None, typer.Option("--sub", help="The user or service whose tokens end.")] = None,
    token_id: Annotated[str | None, typer.Option("--jti", help="The id of the one token that ends.")] = None,
    remembered: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="How long the relays remember it; default: RELAY_REVOCATION_TTL."),
    ] = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """End tokens before their time: their connections are closed, and they are refused from now on.

    \b
    Examples:
      relay revoke --sub user:7
      relay revoke --jti 0f8c --for 7d --json
    """
    from relay.commands import revoke as command

    command.run(subject, token_id, remembered, redis_url, as_json=as_json)


@app.command("celery-events", epilog=_ends_with())
def celery_events(
    broker: Annotated[str, typer.Option(metavar="URL", help="Celery's broker.")], redis_url: RedisUrl = None
) -> None:
    """Report on the tasks of a Celery app from its events, with nothing installed in the app.

    \b
    Examples:
      relay celery-events --broker redis://broker.example:6379/0
    """
    from relay.commands import celery_events as command

    command.run(broker, redis_url)


@key_app.command("create", epilog=_ends_with())
def create_key(
    name: Annotated[str, typer.Argument(help="Names the key in settings, limits and logs.")],
    watch: Scopes = None,
    list_scopes: ListScopes = None,
    publish: Scopes = None,
    cancel: Scopes = None,
    revoke: RevokeScopes = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key, and print it with its entry for RELAY_API_KEYS, which has the key's hash and scopes.

    \b
    Examples:
      relay key create ci --publish prefix:build/ --watch prefix:build/
      relay key create backup --list all --json
    """
    from relay.commands import key as command

    scopes = {"watch": watch, "list": list_scopes, "publish": publish, "cancel": cancel, "revoke": revoke}
    command.create(name, scopes, as_json=as_json)


@app.command(epilog=_ends_with())
def version() -> None:
    """Print the version.

    \b
    Examples:
      relay version
    """
    typer.echo(__version__)


def _exit_status(error: BaseException) -> ExitStatus:
    match error:
        case TailError():
            return error.status
        case CommandError():
            return error.status
        case BrokerUnavailable():
            return ExitStatus.UNREACHABLE
        case BrokerRefused():
            return ExitStatus.REFUSED
        case _:
            return ExitStatus.USAGE


def main() -> None:
    """Run the command. Expected errors are one line on stderr, and the exit status of the first."""
    try:
        app(prog_name="relay")
    except* (RelayError, RelayClientError) as errors:
        expected = leaves(errors)
        for error in expected:
            typer.echo(f"relay: {error}", err=True)
        sys.exit(_exit_status(expected[0]))
    except* KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
