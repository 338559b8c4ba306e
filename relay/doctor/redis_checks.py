"""What can be wrong with Redis: the connection, its settings, and what the Redis user may do.

Everything here runs in a thread: it waits, within the time-outs of its sockets, and writes nothing to Redis.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from relay_wire.channels import GENERAL_UPDATES, TASK_UPDATES
from relay_wire.redis_urls import RedisTarget, parse, sync_client

from relay.broker.server_info import ServerInfo
from relay.config import RedisSettings, Settings
from relay.core.errors import BrokerRefused
from relay.doctor.problems import Finding, NotCheckedError, found
from relay.doctor.redis_errors import explained

_KEY = "relay:{doctor}:check"
_CHANNEL = "relay:doctor"

#: A subscriber must have room for so many of the longest updates: a burst of them is waiting at once.
_UPDATES_IN_BUFFER = 32

#: Commands that Relay and its scripts run, with arguments of the right number. They are queued, and discarded.
_COMMANDS = (
    *(f"{name} KEY" for name in ("DEL", "EXISTS", "GET", "HGETALL", "HKEYS", "HLEN", "SCARD", "SRANDMEMBER")),
    *(f"{name} KEY" for name in ("STRLEN", "TTL", "XLEN", "ZCARD")),
    *(f"{name} KEY 1" for name in ("APPEND", "EXPIRE", "HDEL", "HGET", "HMGET", "HSCAN", "HSTRLEN", "PEXPIRE")),
    *(f"{name} KEY 1" for name in ("SADD", "SET", "SREM", "ZREM", "ZSCORE")),
    *(f"{name} KEY 1 2" for name in ("HSET", "ZADD", "ZRANGEBYSCORE", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE")),
    *(f"{name} KEY 1 2" for name in ("ZREVRANGE", "ZREVRANGEBYSCORE")),
    "XADD KEY * a b",
    "XDEL KEY 1-1",
    "XRANGE KEY - +",
    "XREVRANGE KEY + -",
    "ZRANGE KEY 0 1",
    "ZLEXCOUNT KEY - +",
    "ZRANGEBYLEX KEY - +",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "SCRIPT LOAD return",
    "PUBSUB NUMSUB",
    "TIME",
    "UNSUBSCRIBE CHANNEL",
)

#: Those that it runs on a cluster besides, and with RELAY_WAIT_REPLICAS.
_CLUSTER_COMMANDS = ("CLUSTER SLOTS", "SPUBLISH CHANNEL x", "SSUBSCRIBE CHANNEL", "SUNSUBSCRIBE CHANNEL")
_REPLICA_COMMANDS = ("WAIT 0 0",)


def _node_that_listens(target: RedisTarget, timeout: float) -> tuple[str, int]:
    """Return the first of a cluster's nodes that listens, or the last one."""
    for node in target.nodes[:-1]:
        with suppress(OSError), socket.create_connection(node, timeout):
            return node
    return target.nodes[-1]


@contextmanager
def _connected(url: str, timeout: float, settings: RedisSettings) -> Iterator[Any]:
    """A connection to the server, to the primary that Sentinels name, or to a node of the cluster."""
    target = parse(url)
    limits: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    options = limits | {"retry": Retry(NoBackoff(), 0)}
    if settings.ssl_ca_certs is not None and url.startswith("rediss"):
        options["ssl_ca_certs"] = str(settings.ssl_ca_certs)
    if target.kind == "cluster":
        host, port = _node_that_listens(target, timeout)
        client: Any = redis.Redis(host=host, port=port, **(target.options | options))
    else:
        client = sync_client(target, **options)
    with client:
        connection = client.connection_pool.get_connection()
        try:
            yield connection
        finally:
            connection.disconnect()


def _ask(connection: Any, *command: str) -> Any:
    """Return the answer to a command; an error of Redis is returned, too."""
    connection.send_command(*command)
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _speaks_tls(host: str, port: int, timeout: float) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: it only matters whether TLS is spoken
    with suppress(OSError), socket.create_connection((host, port), timeout) as sock, context.wrap_socket(sock):
        return True
    return False


def _speaks_plainly(host: str, port: int, timeout: float) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout) as sock:
        sock.sendall(b"PING\r\n")
        return sock.recv(1) in (b"+", b"-")
    return False


def _other_transport(target: RedisTarget, timeout: float) -> str | None:
    """Say how the server speaks, if that is not what the URL says."""
    host, port = target.nodes[0] if target.nodes else (target.options.get("host"), target.options.get("port", 6379))
    if host is None:  # a Unix socket
        return None
    is_tls = target.url.startswith("rediss")
    if is_tls and _speaks_plainly(host, port, timeout):
        return f"{host}:{port} speaks no TLS, and the URL begins with rediss"
    if not is_tls and _speaks_tls(host, port, timeout):
        return f"{host}:{port} speaks TLS, and the URL does not begin with rediss"
    return None


def check_connection(url: str, settings: RedisSettings, timeout: float) -> list[Finding]:
    """Connect, authenticate and ping. With no Redis configured and none there, there is nothing to check."""
    findings = _connection_findings(url, settings, timeout)
    if url != settings.configured_url() and [each.problem.id for each in findings] == ["redis-unreachable"]:
        raise NotCheckedError("no Redis is configured: `relay serve` starts an embedded one")
    return findings


def _connection_findings(url: str, settings: RedisSettings, timeout: float) -> list[Finding]:
    try:
        with _connected(url, timeout, settings) as connection:
            answer = _ask(connection, "PING")
    except redis.AuthenticationError as error:
        return [found("redis-password", str(error))]
    except redis.sentinel.MasterNotFoundError:  # its text shows the insides of redis-py
        target = parse(url)
        places = ", ".join(f"{host}:{port}" for host, port in target.nodes)
        return [found("redis-unreachable", f"no Sentinel at {places} names a primary of {target.name!r}")]
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error) or "certificate is not valid" in str(error):
            return [found("redis-certificate", str(error))]
        if isinstance(error, redis.BusyLoadingError) or "max number of clients" in str(error):
            return [found("redis-answer", explained(str(error)))]
        other = _other_transport(parse(url), timeout)
        return [found("redis-unreachable", str(error)) if other is None else found("redis-tls", other)]
    except redis.RedisError as error:
        return [found("redis-answer", explained(str(error)))]
    if not isinstance(answer, redis.RedisError) or isinstance(answer, redis.exceptions.NoPermissionError):
        return []
    if isinstance(answer, redis.AuthenticationError) or str(answer).startswith("Authentication required"):
        return [found("redis-password", str(answer))]
    return [found("redis-answer", explained(str(answer)))]


def info_findings(info: str, *, is_sharded: bool) -> list[Finding]:
    """Return what is wrong according to the text of INFO, of a server that the URL calls a node of a cluster or not."""
    named = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    findings = []
    try:
        ServerInfo.parse(info).require_supported()
    except BrokerRefused as error:
        findings.append(found("redis-old", str(error)))
    if is_sharded != (named.get("cluster_enabled") == "1"):
        findings.append(
            found("redis-kind", "the URL names a cluster" if is_sharded else "the URL names a single server")
        )
    if named.get("role") == "slave" and not is_sharded:
        primary = f"{named.get('master_host')}:{named.get('master_port')}"
        findings.append(found("redis-replica", f"its primary is {primary}"))
    policy = named.get("maxmemory_policy", "noeviction")
    if named.get("maxmemory", "0") != "0" and policy != "noeviction":
        findings.append(found("redis-evicts", f"maxmemory-policy is {policy}"))
    return findings


def check_server(url: str, settings: RedisSettings, timeout: float) -> list[Finding]:
    """Ask Redis about its version, role and memory."""
    with _connected(url, timeout, settings) as connection:
        answer = _ask(connection, "INFO")
    if isinstance(answer, redis.RedisError):
        raise NotCheckedError(f"the Redis user may not run INFO: {answer}")
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
    return info_findings(text, is_sharded=parse(url).is_sharded)


def _limits_of_pubsub(answer: Any) -> tuple[int, int]:
    """Return the hard and the soft limit, in bytes, of the answer of CONFIG GET; 0 is none."""
    parts = answer.values() if isinstance(answer, dict) else answer
    text = b" ".join(each if isinstance(each, bytes) else str(each).encode() for each in parts).decode()
    words = text.split()
    at = words.index("pubsub")
    return int(words[at + 1]), int(words[at + 2])


def check_buffers(url: str, settings: RedisSettings, most: int, timeout: float) -> list[Finding]:
    """Compare the output-buffer limits of subscribers with updates of the greatest length, ``most``."""
    with _connected(url, timeout, settings) as connection:
        answer = _ask(connection, "CONFIG", "GET", "client-output-buffer-limit")
    if isinstance(answer, redis.RedisError):
        raise NotCheckedError("the Redis user may not run CONFIG GET, and need not")
    try:
        limits = _limits_of_pubsub(answer)
    except (ValueError, IndexError):
        raise NotCheckedError("Redis does not say which limits it has") from None
    lowest = min((limit for limit in limits if limit), default=None)
    if lowest is None or lowest >= _UPDATES_IN_BUFFER * most:
        return []
    return [found("redis-output-buffer", f"it cuts at {lowest} bytes, and one update may have {most}")]


def _queue(connection: Any, command: str) -> redis.RedisError | None:
    """Queue a command in a transaction. Redis checks there already whether it may run."""
    words = [{"KEY": _KEY, "CHANNEL": _CHANNEL}.get(word, word) for word in command.split(" ")]
    answer = _ask(connection, *words)
    return answer if isinstance(answer, redis.RedisError) else None


def _kind_of(error: redis.RedisError) -> str | None:
    """Return which problem the refusal of a queued command shows; None for what other checks find."""
    text = str(error)
    if "unknown command" in text:
        return "redis-command-renamed"
    if isinstance(error, redis.exceptions.NoPermissionError):
        if "run the" in text:
            return "redis-command-denied"
        return "redis-channel-denied" if "channel" in text else "redis-key-denied"
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "maxmemory" in text:
        return "redis-full"
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return "redis-replica"
    return "redis-answer" if text.startswith("MISCONF") or "unable to persist" in text else None


def commands_of(settings: Settings, *, is_sharded: bool) -> list[str]:
    """Return the commands that Relay needs with these settings, with arguments; KEY and CHANNEL are for names of Relay's."""
    return [
        *_COMMANDS,
        *(_CLUSTER_COMMANDS if is_sharded else ()),
        *(_REPLICA_COMMANDS if settings.wait_replicas else ()),
    ]


def check_permissions(url: str, redis_settings: RedisSettings, settings: Settings, timeout: float) -> list[Finding]:
    """Queue every command that Relay needs in a transaction, which is then discarded: none is carried out."""
    channels = (_CHANNEL, TASK_UPDATES, GENERAL_UPDATES)
    subscribed = [("PSUBSCRIBE" if set(name) & set("*?[") else "SUBSCRIBE", name) for name in settings.extra_channels]
    refused: dict[str, list[str]] = {}
    with _connected(url, timeout, redis_settings) as connection:
        begun = _ask(connection, "MULTI")
        if isinstance(begun, redis.RedisError):
            raise NotCheckedError(f"this check needs MULTI: {begun}")
        asked = [
            *((command, _CHANNEL) for command in commands_of(settings, is_sharded=parse(url).is_sharded)),
            *((f"PUBLISH {channel} x", channel) for channel in channels),
            *((f"SUBSCRIBE {channel}", channel) for channel in channels),
            *((f"{verb} {name}", name) for verb, name in subscribed),
        ]
        for command, subject in asked:
            error = _queue(connection, command)
            kind = _kind_of(error) if error is not None else None
            if kind is not None:
                named = command.split(" ")[0] if kind.startswith("redis-command") else subject
                if kind in ("redis-full", "redis-replica", "redis-answer", "redis-key-denied"):
                    named = explained(str(error)) if kind == "redis-answer" else str(error)
                refused.setdefault(kind, []).append(named)
        _ask(connection, "DISCARD")
    return [found(kind, ", ".join(dict.fromkeys(names))) for kind, names in refused.items()]
