"""The command `relay`: its help, what it costs, and whom it blames. Most of it runs within this process."""

import json
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import typer.main
from relay_client.tail.errors import MEANINGS, ExitStatus

import relay
from relay.cli import app
from relay.core.api_keys import ApiKeys, read_entry
from relay.core.grants import Verb
from tests.commands import bare_environ, run
from tests.harness import PATIENCE, ROOT, RedisServer

ROOT_COMMAND: Any = typer.main.get_command(app)

#: Commands that go on until they are stopped, or print one word: there is nothing that JSON would make clearer.
WITHOUT_JSON = {"serve", "demo", "celery-events", "token", "version"}


def run_apart(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as it is installed."""
    return subprocess.run(
        [Path(sys.executable).with_name("relay"), *arguments],
        env=bare_environ(**environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def commands_of(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands_of(ROOT_COMMAND))


def parse(line: str) -> None:
    """Have the command's own parser read a command line. Raises what it raises."""
    name, *arguments = shlex.split(line)
    assert name == "relay"
    command, path = ROOT_COMMAND, []
    while hasattr(command, "commands"):
        path.append(arguments.pop(0))
        command = command.commands[path[-1]]
    command.make_context(" ".join(path), arguments)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_examples_and_exit_statuses(path: tuple[str, ...]) -> None:
    helped = run(*path, "--help", COLUMNS="400")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert run(*path, "-h", COLUMNS="400") == helped
    examples = re.findall(r"^ +(relay .*?) *$", helped.stdout.partition("Examples:")[2], re.MULTILINE)
    assert examples
    assert any(line.startswith(f"relay {' '.join(path)}") for line in examples)
    for line in examples:
        for part in line.split(" | "):
            if not part.startswith("head"):
                parse(part)
    (said,) = re.findall(r"Exit status: (.*)\.", helped.stdout)
    statuses = dict(part.split(" ", 1) for part in said.split("; "))
    assert {"0", "2"} <= statuses.keys() <= {str(int(status)) for status in ExitStatus}
    assert ("--json" in helped.stdout) == (path[0] not in WITHOUT_JSON)


def test_groups_have_help() -> None:
    for path in ([], ["publish"], ["key"]):
        helped = run(*path, "--help")
        assert (helped.returncode, helped.stdout) == (0, run(*path, "-h").stdout)
        assert "--help" in helped.stdout


def test_the_command_is_installed() -> None:
    assert run_apart("--version").stdout == run("--version").stdout == run("version").stdout == f"{relay.__version__}\n"
    refused = run_apart("tail", "--url", "ftp://x")
    assert refused.returncode == ExitStatus.USAGE
    assert refused.stderr == run("tail", "--url", "ftp://x").stderr != ""


def test_a_short_call_is_cheap() -> None:
    """Completion asks at every press of the tab key. What it must not load costs ten times as much as it may take."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_apart("--version").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    loaded = "import sys, relay.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    names = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, timeout=PATIENCE
    ).stdout.split()
    assert not {"trio", "redis", "quart", "hypercorn", "pydantic", "rich", "wsproto"} & set(names)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    # Without this, Typer looks for a shell among the parents of the process, of which there need not be one.
    shown = run("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (shown.returncode, "_RELAY_COMPLETE" in shown.stdout) == (0, True)
    offered = run(_RELAY_COMPLETE="complete_bash", COMP_WORDS="relay ta", COMP_CWORD="1")
    assert offered.stdout.split() == ["tail"]


@pytest.mark.parametrize(
    ("arguments", "environ", "complaint"),
    [
        (["serve", "--port", "99999"], {}, "--port: "),
        (["serve"], {"RELAY_PORT": "99999"}, "RELAY_PORT: "),
        (["serve", "--port", "1"], {"RELAY_WORKERS": "0"}, "RELAY_WORKERS: "),
        (["serve", "--redis-url", "http://x"], {"REDIS_URL": "redis://ok"}, "--redis-url: "),
        (["serve"], {"REDIS_URL": "http://x"}, "REDIS_URL: "),
        (["publish", "task", "t", "a=1", "--redis-url", "http://x"], {}, "--redis-url: "),
        (["tail", "--url", "ftp://x"], {"RELAY_URL": "ws://ok"}, "--url: "),
        (["tail"], {"RELAY_URL": "ftp://x"}, "RELAY_URL: "),
        (["tail", "--task", ""], {}, "--task: "),
    ],
)
def test_what_is_wrong_is_blamed_as_what_it_was_given_as(
    arguments: list[str], environ: dict[str, str], complaint: str
) -> None:
    ended = run(*arguments, **environ)
    assert ended.returncode == ExitStatus.USAGE
    assert ended.stderr.startswith(f"relay: {complaint}"), ended.stderr
    assert ended.stderr.count("\n") == 1


def test_exit_statuses_are_documented() -> None:
    page = (ROOT / "docs" / "troubleshoot.md").read_text()
    documented = {int(status): text for status, text in re.findall(r"^\| (\d+) \| ([^|]*) \|$", page, re.MULTILINE)}
    expected = {int(status): text for status, text in MEANINGS.items()}
    assert documented == expected | {1: "an unexpected error", 130: "Ctrl-C"}


def test_redis_that_cannot_be_reached_has_a_status_of_its_own() -> None:
    ended = run("publish", "task", "t", "a=1", "--redis-url", "redis://127.0.0.1:1")
    assert ended.returncode == ExitStatus.UNREACHABLE


def test_what_commands_print_for_machines(shared_redis: RedisServer) -> None:
    url = shared_redis.url
    first, second = (
        json.loads(run("publish", "task", "t", "n=1", "--json", "--redis-url", url).stdout) for _ in range(2)
    )
    assert first["redis"] == url
    assert second["position"] == {**first["position"], "offset": first["position"]["offset"] + 1}
    plain = run("publish", "general", "news=1", REDIS_URL=url)
    assert (plain.returncode, plain.stdout.count("\n")) == (0, 1)
    revoked = json.loads(run("revoke", "--sub", "user:7", "--for", "5m", "--json", REDIS_URL=url).stdout)
    assert revoked == {"redis": url, "revoked": {"sub": "user:7"}, "seconds": 300}
    made = json.loads(run("key", "create", "ci", "--publish", "all", "--json").stdout)
    grant = ApiKeys([read_entry(made["entry"])]).find(made["key"])
    assert grant is not None
    assert grant.scope(Verb.PUBLISH).everything


SECRET = "0123456789abcdef0123456789abcdef"


def test_a_token_is_made_of_the_secret_of_the_environment() -> None:
    options = [
        "--watch",
        "task:demo",
        "--watch",
        "prefix:order-7/",
        "--publish",
        "owned",
        "--ttl",
        "1h",
        "--sub",
        "user:7",
    ]
    made = run("token", *options, RELAY_JWT_SECRET=SECRET, RELAY_JWT_AUDIENCE="relay")
    claims = jwt.decode(made.stdout.strip(), SECRET, ["HS256"], audience="relay")
    assert claims["relay"] == {"watch": {"tasks": ["demo"], "prefixes": ["order-7/"]}, "publish": {"owned": True}}
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("user:7", 3600)


@pytest.mark.parametrize(
    ("arguments", "environ", "complaint"),
    [
        (["--watch", "task:demo"], {}, "RELAY_JWT_SECRET: not set"),
        (["--watch", "task:demo"], {"RELAY_JWT_SECRET": "short"}, "at least 32 bytes"),
        (["--watch", "task:demo", "--key-file", "/no/such"], {}, "--key-file: No such file"),
        (["--watch", "demo"], {"RELAY_JWT_SECRET": SECRET}, "unknown scope 'demo'"),
        (["--watch", "task:demo", "--ttl", "5"], {"RELAY_JWT_SECRET": SECRET}, "not a time"),
        ([], {"RELAY_JWT_SECRET": SECRET}, "say what the token is for"),
    ],
)
def test_a_token_that_cannot_be_made_is_explained(
    arguments: list[str], environ: dict[str, str], complaint: str
) -> None:
    ended = run("token", *arguments, **environ)
    assert ended.returncode == ExitStatus.USAGE
    assert complaint in " ".join(ended.stderr.replace("│", " ").split())
    assert ended.stdout == ""


def test_a_key_and_its_entry_fit() -> None:
    made = run("key", "create", "ci", "--publish", "prefix:order-7/", "--list", "all")
    key, entry = (line.split(maxsplit=1)[1] for line in made.stdout.splitlines())
    grant = ApiKeys([read_entry(entry)]).find(key)
    assert grant is not None
    assert grant.scope(Verb.PUBLISH).prefixes == ("order-7/",)
    assert key not in entry
    refused = run("key", "create", "ci", "--publish", "task:a b")
    assert (refused.returncode, refused.stdout) == (ExitStatus.USAGE, "")
