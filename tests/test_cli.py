"""The command `relay`: what it costs, and whom it blames."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from relay_client.tail.errors import ExitStatus

import relay
from relay.core.api_keys import ApiKeys, read_entry
from relay.core.grants import Verb
from tests.harness import PATIENCE, ROOT


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    return subprocess.run(
        [Path(sys.executable).with_name("relay"), *arguments],
        env=inherited | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_version_and_help() -> None:
    assert run("--version").stdout == run("version").stdout == f"{relay.__version__}\n"
    for command in (
        [],
        ["serve"],
        ["tail"],
        ["doctor"],
        ["publish"],
        ["publish", "task"],
        ["token"],
        ["key", "create"],
    ):
        assert run(*command, "-h").stdout == run(*command, "--help").stdout != ""


def test_a_short_call_is_cheap() -> None:
    """Completion asks at every press of the tab key. What it must not load costs ten times as much as it may take."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--version").returncode == 0
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
    assert (shown.returncode, "relay" in shown.stdout.lower()) == (0, True)
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
    documented = {int(status) for status in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert documented >= {*ExitStatus, 1, 130}


def test_redis_that_cannot_be_reached_has_a_status_of_its_own() -> None:
    ended = run("publish", "task", "t", "a=1", "--redis-url", "redis://127.0.0.1:1")
    assert ended.returncode == ExitStatus.UNREACHABLE


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
