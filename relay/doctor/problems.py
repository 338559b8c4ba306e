"""The problems that `relay doctor` knows: severity, what to do, and what they look like elsewhere.

``python docs/troubleshoot_tables.py`` makes docs/troubleshoot.md of them.
"""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a problem is: with an error updates do not arrive, or not for all; with a warning they may be lost later."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that can be wrong.

    Attributes:
        id: Its name, which is also its anchor in docs/troubleshoot.md.
        severity: How bad it is.
        title: What is wrong, in one sentence.
        remedy: What to do about it.
        symptoms: What it looks like elsewhere, in Markdown: in a log of Relay, to a client, in metrics.
    """

    id: str
    severity: Severity
    title: str
    remedy: str
    symptoms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that is there.

    Attributes:
        problem: Which one.
        detail: What was seen. It has no password and no token in it.
    """

    problem: Problem
    detail: str


class NotCheckedError(Exception):
    """A check cannot be made here; the message says why."""


def found(problem_id: str, detail: str) -> Finding:
    """Return a finding of the problem with this id."""
    return Finding(PROBLEMS[problem_id], detail)


_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

_ALL = (
    Problem(
        "setting-invalid",
        _ERROR,
        "A setting is wrong, or contradicts another one.",
        "Correct the variable that the line names, in the environment or in `.env`. The relay does not start until then.",
        symptoms=("the relay does not start, and ends with exit status 2",),
    ),
    Problem(
        "setting-unknown",
        _WARNING,
        "A variable begins with `RELAY_` and is no setting.",
        "Correct its name, or remove it. docs/configuration.md has all settings.",
        symptoms=("`is not a setting and does nothing; did you mean`",),
    ),
    Problem(
        "setting-unsafe",
        _ERROR,
        "`RELAY_PROFILE=production` does not start on this default.",
        "Set the variable that the line names.",
    ),
    Problem(
        "file-limit",
        _WARNING,
        "The limit of open files is lower than `RELAY_MAX_CLIENTS` needs.",
        "Raise the hard limit (`LimitNOFILE=` of systemd, `ulimits` of Compose), or lower `RELAY_MAX_CLIENTS`.",
    ),
    Problem(
        "port-taken",
        _ERROR,
        "Another program listens on the relay's port.",
        "Stop that program, or set `RELAY_PORT`. `ss -ltnp` shows which program it is.",
    ),
    Problem(
        "backlog",
        _WARNING,
        "Few connections may wait to be accepted: when many clients reconnect at once, some of them fail.",
        "Start Hypercorn with `--backlog 4096`, and raise `net.core.somaxconn` to as much with sysctl.",
    ),
    Problem(
        "redis-unreachable",
        _ERROR,
        "Redis cannot be reached.",
        "Start Redis, or correct `REDIS_URL`. In a container, `127.0.0.1` is the container itself; in Kubernetes, the Redis of "
        "another namespace is `redis.<namespace>`; Sentinels have a port of their own, usually 26379. If Redis runs, look for "
        "a firewall or NetworkPolicy between them, and whether it is frozen or swaps.",
        symptoms=(
            "`Error 111 connecting to`",
            "`Error -2 connecting to`, `Name or service not known`",
            "`TooSlowError`: no answer within `RELAY_REDIS_TIMEOUT`",
            "`unknown command 'SENTINEL'`",
        ),
    ),
    Problem(
        "redis-password",
        _ERROR,
        "Redis refuses the user or the password.",
        "Correct `REDIS_USERNAME` and `REDIS_PASSWORD`, or those in `REDIS_URL`, where `@ : / %` are `%40 %3A %2F %25`.",
        symptoms=(
            "`AuthenticationError: Authentication required`",
            "`AuthenticationError: invalid username-password pair`",
        ),
    ),
    Problem(
        "redis-tls",
        _ERROR,
        "One side of the connection to Redis speaks TLS and the other does not.",
        "Use `rediss://` (or `REDIS_SSL=1`) for a port with TLS, and `redis://` for one without.",
        symptoms=("`TooSlowError`: no answer within `RELAY_REDIS_TIMEOUT`",),
    ),
    Problem(
        "redis-certificate",
        _ERROR,
        "The certificate of Redis is not trusted.",
        "Set `REDIS_SSL_CA_CERTS` to the authority's file, and use a host name that is in the certificate.",
    ),
    Problem(
        "redis-answer",
        _ERROR,
        "Redis answers with an error.",
        "Look the error up in the section on Redis' own errors.",
    ),
    Problem(
        "redis-old",
        _ERROR,
        "This version of Redis is too old.",
        "Upgrade it: Redis 6.2 or later, a cluster 7.0 or later, or any Valkey.",
        symptoms=("`is too old: Relay needs version`",),
    ),
    Problem(
        "redis-kind",
        _ERROR,
        "The URL names a cluster and this Redis is none, or the reverse.",
        "Use `redis+cluster://` for a cluster, and `redis://` for a single server.",
        symptoms=("`no node of the cluster answers` (the event), `cluster support disabled`",),
    ),
    Problem(
        "redis-replica",
        _ERROR,
        "This Redis is a replica, which takes no writes.",
        "Use the address of the primary, or Sentinel or a cluster (docs/redis.md), which name the present one.",
    ),
    Problem(
        "redis-command-denied",
        _ERROR,
        "The Redis user may not run a command that Relay needs.",
        "Allow the commands that the line names with `ACL SETUSER`. docs/deploy.md has a user that suffices.",
        symptoms=("`NoPermissionError`",),
    ),
    Problem(
        "redis-command-renamed",
        _ERROR,
        "Redis does not know a command that Relay needs.",
        "Remove its `rename-command` from the configuration of Redis; forbid commands to users by ACL instead.",
    ),
    Problem(
        "redis-key-denied",
        _ERROR,
        "The Redis user may not use Relay's keys.",
        "Give it the keys with `ACL SETUSER <user> '~relay:*'`.",
        symptoms=("`NoPermissionError`",),
    ),
    Problem(
        "redis-channel-denied",
        _ERROR,
        "The Redis user may not use a channel that Relay needs.",
        "Give it each channel that the line names with `ACL SETUSER <user> '&<channel>'`.",
        symptoms=("`NoPermissionError`",),
    ),
    Problem(
        "redis-full",
        _ERROR,
        "Redis has reached `maxmemory` and takes no writes.",
        "Raise `maxmemory`, or keep less: `RELAY_HISTORY_SIZE`, `RELAY_HISTORY_TTL`, `RELAY_TASK_STATE_TTL`.",
        symptoms=("`redis does not take writes`, `relay_updates_unpersisted_total` grows",),
    ),
    Problem(
        "redis-evicts",
        _WARNING,
        "Redis may evict Relay's keys: histories and states can vanish at any time.",
        "Set `maxmemory-policy noeviction`, and let Relay have a Redis of its own if other programs need eviction.",
        symptoms=("`relay_redis_evicted_keys_total` grows",),
    ),
    Problem(
        "redis-output-buffer",
        _WARNING,
        "Redis cuts off subscribers with little waiting, so that a burst of updates ends a relay's subscription.",
        "Raise it: `CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60'`, and the same in redis.conf.",
        symptoms=("`redis closed a subscription that had too much to send`",),
    ),
    Problem(
        "relay-unreachable",
        _ERROR,
        "The relay cannot be reached at this URL.",
        "Check the URL, that the relay runs, and that the proxy's upstream is its address.",
        symptoms=("a proxy answers 502 or 504",),
    ),
    Problem(
        "relay-not-ready",
        _ERROR,
        "The relay runs and is not ready.",
        "The line has the relay's reason. If it is Redis, the checks of Redis say more; run them where the relay runs.",
    ),
    Problem(
        "relay-refuses",
        _ERROR,
        "The relay or a proxy refuses clients.",
        "The line has the answer. If it is 503 or 1013, the relay is full (`RELAY_MAX_CLIENTS`), shuts down, or more clients "
        "connect than `RELAY_CONNECT_RATE` allows: clients return by themselves; if it goes on, add relays or raise the limit.",
        symptoms=(
            '503 (403 under servers that cannot send 503), and `relay_connections_refused_total{reason="draining"}` grows',
            '503, and `relay_connections_refused_total{reason="connect_rate"}` grows',
            'close code 1013, and `relay_connections_refused_total{reason="too_many_clients"}` grows',
        ),
    ),
    Problem(
        "relay-silent",
        _WARNING,
        "Relays that were there a moment ago do not answer the others.",
        "Look at their logs: they hang, were killed just now, or are of an older version. One that is gone is forgotten after "
        "ten seconds.",
    ),
    Problem(
        "publishes-malformed",
        _WARNING,
        "A service publishes messages that cannot be read, and clients do not get them.",
        "The line says what is wrong; `relay status` shows how the last ones begin. docs/protocol.md has the form.",
        symptoms=("`published message skipped`, `relay_updates_invalid_total` grows",),
    ),
    Problem(
        "origin-refused",
        _ERROR,
        "The relay refuses pages of this origin.",
        "Add the origin with its scheme to `RELAY_ALLOWED_ORIGINS`, such as `https://app.example.com`.",
        symptoms=('403, and `relay_connections_refused_total{reason="origin"}` grows',),
    ),
    Problem(
        "host-refused",
        _ERROR,
        "The relay does not answer under this name.",
        "Add the name to `RELAY_ALLOWED_HOSTS`, or have the proxy pass on the client's `Host`.",
        symptoms=('403, and `relay_connections_refused_total{reason="host"}` grows',),
    ),
    Problem(
        "proxy-upgrade",
        _ERROR,
        "No WebSocket can be opened: a proxy drops the `Upgrade` header.",
        "Pass on `Upgrade` and `Connection`, over HTTP/1.1, as the files in docker/proxies/ do.",
        symptoms=("404 or 426 in answer to a WebSocket handshake",),
    ),
    Problem(
        "proxy-buffers",
        _ERROR,
        "A proxy holds back events on `/events`.",
        "Turn its buffering off and speak HTTP/1.1 to the relay: `proxy_buffering off; proxy_http_version 1.1;` in nginx.",
        symptoms=("events arrive in bursts on `/events`",),
    ),
    Problem(
        "proxy-last-event-id",
        _ERROR,
        "A proxy drops the header `Last-Event-ID`, so that event streams cannot resume.",
        "Let the proxy pass on all headers of the request.",
    ),
    Problem(
        "proxy-cuts",
        _ERROR,
        "A proxy ends connections after a time of silence, or after a fixed time.",
        "Raise its time-outs (`proxy_read_timeout` in nginx), or set `RELAY_HEARTBEAT_INTERVAL` below them.",
        symptoms=("clients are disconnected with 1006 after a fixed time of silence, and the log shows nothing",),
    ),
    Problem(
        "token-malformed",
        _ERROR,
        "The token cannot be read.",
        "Give the token as it was signed: three parts with two dots, without quotes or `Bearer`.",
    ),
    Problem(
        "token-expired",
        _ERROR,
        "The token has expired.",
        "Get a new one; have the page fetch tokens again before they end (docs/grants.md).",
    ),
    Problem(
        "token-not-yet-valid",
        _ERROR,
        "The token is not valid yet: the clocks of its issuer and of the relay differ.",
        "Set both clocks by NTP. `RELAY_JWT_LEEWAY` allows for a few seconds.",
    ),
    Problem(
        "token-audience",
        _ERROR,
        "The token is for another audience.",
        "Sign tokens with one `aud` of `RELAY_JWT_AUDIENCE`; without that setting they must have none.",
    ),
    Problem(
        "token-issuer",
        _ERROR,
        "The token is of another issuer.",
        "Sign tokens with the `iss` of `RELAY_JWT_ISSUER`, or correct the setting.",
    ),
    Problem(
        "token-refused",
        _ERROR,
        "The relay refuses the token.",
        "The line has the relay's reason. For a signature, compare the key of the issuer with the relay's.",
    ),
    Problem(
        "clock-skew",
        _WARNING,
        "The clocks of this machine and of the relay differ.",
        "Set both by NTP: tokens end too early or hold too long otherwise.",
    ),
)

#: By id.
PROBLEMS = {problem.id: problem for problem in _ALL}
