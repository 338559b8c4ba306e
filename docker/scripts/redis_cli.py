"""``make redis-cli``: run redis-cli or valkey-cli on Relay's Redis, or a small substitute if neither is installed.

``make redis-cli ARGS='INFO memory'`` runs one command. The password is passed in the environment, never on the command line.
"""

import os
import shlex
import shutil
import sys
from typing import Any

import redis
from redis_place import Place, connect, read_place
from relay_wire.redis_urls import parse

from relay.config import RedisSettings


def program_arguments(place: Place, settings: RedisSettings) -> tuple[list[str], dict[str, str]]:
    """Return options and environment variables for redis-cli.

    Raises:
        redis.RedisError: no Sentinel knows the master.
    """
    client = connect(place, settings)
    target = parse(place.url)
    if isinstance(client, redis.RedisCluster):
        node = next(iter(client.get_primaries()))  # type: ignore[no-untyped-call]
        host, port, options = node.host, node.port, target.options
    elif target.kind == "sentinel":
        (host, port), options = client.connection_pool.get_master_address(), target.options  # type: ignore[attr-defined]
    else:
        options = client.connection_pool.connection_kwargs
        host, port = options.get("host", "127.0.0.1"), options.get("port", 6379)
    client.close()
    arguments = ["-s", options["path"]] if options.get("path") else ["-h", str(host), "-p", str(port)]
    if options.get("db"):
        arguments += ["-n", str(options["db"])]
    if options.get("username"):
        arguments += ["--user", options["username"]]
    if target.kind == "cluster":
        arguments.append("-c")
    if options.get("ssl") or target.url.startswith("rediss://"):
        arguments.append("--tls")
        authorities = settings.ssl_ca_certs or options.get("ssl_ca_certs")
        arguments += ["--cacert", str(authorities)] if authorities else []
    return arguments, {"REDISCLI_AUTH": options["password"]} if options.get("password") else {}


def shown(answer: Any, indent: str = "") -> str:
    """Format a reply, almost like redis-cli."""
    if isinstance(answer, dict):
        answer = [part for pair in answer.items() for part in pair]
    if isinstance(answer, list | tuple | set):
        lines = (f"{indent}{number}) {shown(part, indent + '   ')}" for number, part in enumerate(answer, 1))
        return "\n".join(lines).removeprefix(indent) or "(empty)"
    return "(nil)" if answer is None else str(answer)


def run(client: "redis.Redis | redis.RedisCluster", command: list[str]) -> bool:
    """Run one command. Print the reply, or print the error to stderr. Return whether it succeeded."""
    try:
        print(shown(client.execute_command(*command)))  # type: ignore[no-untyped-call]
    except (redis.RedisError, OSError) as error:
        print(f"(error) {error}", file=sys.stderr)
        return False
    return True


def converse(client: "redis.Redis | redis.RedisCluster", prompt: str) -> None:
    """Read and run commands until the end of the input."""
    while True:
        try:
            command = shlex.split(input(prompt if sys.stdin.isatty() else ""))
        except (EOFError, KeyboardInterrupt):
            return
        except ValueError as error:
            print(f"(error) {error}", file=sys.stderr)
            continue
        if command and command[0].lower() in ("exit", "quit"):
            return
        if command:
            run(client, command)


def main(command: list[str]) -> int:
    """Run the command. Return the exit status, unless redis-cli replaces this process."""
    settings, place = read_place()
    print(f"Redis  {place}", file=sys.stderr)
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    try:
        if program is not None:
            arguments, environ = program_arguments(place, settings)
            sys.stderr.flush()
            os.execve(program, [program, *arguments, *command], {**os.environ, **environ})
        client = connect(place, settings)
    except (redis.RedisError, OSError) as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)
        return 1
    if isinstance(client, redis.Redis):
        client.response_callbacks.clear()  # show replies as Redis sends them, not redis-py's objects
    try:
        if command:
            return 0 if run(client, command) else 1
        converse(client, "redis> ")
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
