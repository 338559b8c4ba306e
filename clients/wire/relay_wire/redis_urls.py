"""Where Redis is: one server, one that Sentinels watch over, or a cluster, as a URL.

    redis://[user:password@]host:6379/0                              rediss:// with TLS, unix:///path for a socket
    redis+sentinel://[user:password@]host:26379,host2:26379/name/0   name: the master's, as the Sentinels know it
    redis+cluster://[user:password@]host:7000,host2:7001             any of its nodes; rediss+cluster:// with TLS

Further options of redis-py may follow as a query, ``sentinel_username`` and ``sentinel_password`` among them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import redis
import redis.sentinel
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import RedisCluster as AsyncRedisCluster
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode

SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

#: Logins and hosts, and what follows them.
_AUTHORITY = re.compile(r"([^/?#]*)(.*)", re.DOTALL)

_SENTINEL_PORT = 26379
_REDIS_PORT = 6379


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A parsed URL.

    Attributes:
        kind: What the URL names.
        url: The URL itself, with its password.
        nodes: Host and port of the Sentinels or cluster nodes.
        name: The master's name, with Sentinels.
        options: Arguments of redis-py's connections, as the URL gives them.
        sentinel_options: The same for connections to Sentinels.
    """

    kind: Literal["single", "sentinel", "cluster"]
    url: str = field(repr=False)
    nodes: tuple[tuple[str, int], ...] = ()
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_sharded(self) -> bool:
        """Whether it is a cluster, on which updates travel on sharded channels."""
        return self.kind == "cluster"


def parse(url: str) -> RedisTarget:
    """Return what a URL says.

    Raises:
        ValueError: The URL is wrong. The message says how, and has no password in it.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        raise ValueError(f"a Redis URL must begin with one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    base, _, kind = scheme.partition("+")
    if not kind:
        return RedisTarget("single", url, options={**parse_url(url)})
    # Python's own parser takes only one host, and since 3.13.4 nothing before the bracket of an IPv6 address.
    authority, tail = _AUTHORITY.fullmatch(rest).groups()  # type: ignore[union-attr]
    login, _, places = authority.rpartition("@")
    default_port = _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT
    nodes = tuple(_node(place, default_port) for place in places.split(",") if place)
    if not nodes:
        raise ValueError(f"a {scheme}:// URL needs at least one host:port")
    # What is left is as in an ordinary URL: let redis-py read it.
    parts = urlsplit(f"//host{tail}")
    path = [unquote(part) for part in parts.path.split("/") if part]
    name = ""
    if kind == "sentinel":
        if not path:
            raise ValueError("a redis+sentinel:// URL needs the master's name: redis+sentinel://host:26379/mymaster/0")
        name = path.pop(0)
    elif path and path != ["0"]:
        raise ValueError("a cluster has only database 0")
    query = parse_qs(parts.query)
    sentinel_options: dict[str, Any] = {
        option: values[0] for option in ("username", "password") if (values := query.pop(f"sentinel_{option}", None))
    }
    more = urlencode(query, doseq=True)
    options: dict[str, Any] = {**parse_url(f"{base}://{f'{login}@' if login else ''}host/{'/'.join(path)}?{more}")}
    options.pop("host", None)
    options.pop("port", None)
    if kind == "cluster":
        options.pop("db", None)
        return RedisTarget("cluster", url, nodes, "", _without_class(options, base), {})
    if base == "rediss":
        sentinel_options["ssl"] = True
    return RedisTarget("sentinel", url, nodes, name, _without_class(options, base), sentinel_options)


def _without_class(options: dict[str, Any], base: str) -> dict[str, Any]:
    """Return options that any pool takes: connection classes differ, and with Sentinel and Cluster TLS is an option."""
    options = {name: value for name, value in options.items() if name != "connection_class"}
    return options | ({"ssl": True} if base == "rediss" else {})


def _node(place: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        port = parts.port
    except ValueError:
        raise ValueError(f"{place!r} is not of the form host:port") from None
    if not parts.hostname:
        raise ValueError(f"{place!r} is not of the form host:port")
    return parts.hostname, port or default_port


def async_pool(target: RedisTarget, *, fixed: Mapping[str, Any] | None = None, **options: Any) -> AsyncConnectionPool:
    """Return a pool of asyncio connections to the one server, or to the master that the Sentinels name. Does not connect.

    Args:
        target: The parsed URL; not of a cluster.
        fixed: Arguments of redis-py's connections that the URL cannot change.
        options: Further arguments. Those in the URL of a single server win over them.
    """
    if target.kind == "single":
        return AsyncConnectionPool(**(options | target.options | dict(fixed or {})))
    assert target.kind == "sentinel"
    options = options | dict(fixed or {})
    timeouts = _share_of_each_sentinel(target, options) | {"retry": AsyncRetry(NoBackoff(), 0)}
    sentinel = AsyncSentinel(target.nodes, sentinel_kwargs=timeouts | target.sentinel_options)  # type: ignore[no-untyped-call]
    return AsyncSentinelPool(target.name, sentinel, **(target.options | options))  # type: ignore[no-untyped-call]


def _share_of_each_sentinel(target: RedisTarget, options: dict[str, Any]) -> dict[str, Any]:
    """Return the time-outs of connections to Sentinels: one that hangs must leave time to ask the others."""
    names = ("socket_timeout", "socket_connect_timeout")
    return {name: options[name] / (len(target.nodes) + 1) for name in names if options.get(name) is not None}


async def close_pool(pool: AsyncConnectionPool) -> None:
    """Close a pool's connections, those to Sentinels among them."""
    await pool.disconnect()
    if isinstance(pool, AsyncSentinelPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def async_cluster(target: RedisTarget, **options: Any) -> AsyncRedisCluster:
    """Return an asyncio client of the cluster. Does not connect."""
    nodes = [AsyncClusterNode(host, port) for host, port in target.nodes]
    return AsyncRedisCluster(startup_nodes=nodes, **(target.options | options))


def async_client(target: RedisTarget, **options: Any) -> AsyncRedis | AsyncRedisCluster:
    """Return an asyncio client. Does not connect."""
    if target.kind == "cluster":
        return async_cluster(target, **options)
    return AsyncRedis(connection_pool=async_pool(target, **options))


def sync_client(target: RedisTarget, **options: Any) -> "redis.Redis | redis.RedisCluster":
    """Return a client for threads. Connects only with a cluster, whose topology it reads."""
    if target.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in target.nodes]  # type: ignore[no-untyped-call]
        return redis.RedisCluster(startup_nodes=nodes, **(target.options | options))
    if target.kind == "sentinel":
        timeouts = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout") if name in options}
        sentinel = redis.sentinel.Sentinel(target.nodes, sentinel_kwargs=timeouts | target.sentinel_options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(target.name, **(target.options | options))  # type: ignore[no-any-return, no-untyped-call]
    return redis.Redis.from_url(target.url, **options)
