"""The errors that Redis itself answers with: what each means, and what to do. docs/troubleshoot.md has them as a table."""

import re
from typing import NamedTuple


class RedisError(NamedTuple):
    """One error, in Markdown.

    Attributes:
        code: The word that Redis begins with. Python's client removes it.
        text: What follows, with quotes of it between backquotes.
        meaning: What it means.
        remedy: What to do about it. Links are relative to docs/.
    """

    code: str
    text: str
    meaning: str
    remedy: str

    @property
    def quotes(self) -> list[str]:
        """The texts that Redis answers with."""
        return re.findall(r"`(.*?)`", self.text)


REDIS_ERRORS = (
    RedisError(
        "`NOAUTH`",
        "`Authentication required.`, or `HELLO must be called with the client already authenticated`",
        "Redis requires a password, and none was sent",
        "set `REDIS_PASSWORD`, or put it into the URL",
    ),
    RedisError(
        "`WRONGPASS`",
        "`invalid username-password pair or user is disabled.`",
        "the user or the password is wrong, or the ACL user is off",
        "correct them. In a URL, write `@ : / %` as `%40 %3A %2F %25`. A password without a user is that of the user `default`",
    ),
    RedisError(
        "`NOPERM`",
        "`No permissions to access a key`, `No permissions to access a channel`, `has no permissions to run the`",
        "the ACL user lacks a command, a key or a channel",
        "give it the permissions in [deploy.md](deploy.md#highly-available-redis); `ACL LOG` shows what was denied",
    ),
    RedisError(
        "`READONLY`",
        "`You can't write against a read only replica.`",
        "the address is that of a replica, or of a primary that a failover has demoted. Retried",
        "use the address of the primary, or better [Sentinel or a cluster](redis.md), which name the present one",
    ),
    RedisError(
        "`MASTERDOWN`",
        "`Link with MASTER is down and replica-serve-stale-data is set to 'no'.`",
        "the address is that of a replica, which has lost its primary. Retried",
        "use the address of the primary, or better [Sentinel or a cluster](redis.md), which name the present one",
    ),
    RedisError(
        "`OOM`",
        "`command not allowed when used memory > 'maxmemory'.`",
        "Redis is full, and may not evict",
        "raise `maxmemory`, or store less: see **Redis is full** in [No WebSocket updates](#no-websocket-updates)",
    ),
    RedisError(
        "`MISCONF`",
        "`is configured to save RDB snapshots, but it's currently unable to persist to disk.`",
        "a snapshot failed, mostly because the disk is full or the directory may not be written; Redis takes no writes until "
        "one succeeds",
        "free the disk, see the log of Redis, then `BGSAVE`",
    ),
    RedisError(
        "`LOADING`",
        "`is loading the dataset in memory`",
        "Redis has just started and reads its data. Retried",
        "wait; `INFO persistence` shows how long",
    ),
    RedisError(
        "`BUSY`",
        "`is busy running a script.`",
        "somebody's script runs for more than 5 s. Retried",
        "find it in `SLOWLOG GET`; `SCRIPT KILL` ends it, if it has not written. Relay's own scripts take less than a "
        "millisecond",
    ),
    RedisError(
        "`CLUSTERDOWN`",
        "`Hash slot not served`, `The cluster is down`",
        "a part of the cluster has no primary. Retried",
        "look at `CLUSTER INFO` and `CLUSTER NODES`; start the node, or let a replica take over",
    ),
    RedisError(
        "`CROSSSLOT`",
        "`Keys in request don't hash to the same slot`",
        "a client that knows nothing of clusters talks to one",
        "write `redis+cluster://` instead of `redis://` in `REDIS_URL`",
    ),
    RedisError(
        "`MOVED`, `ASK`",
        "a slot and an address, such as `15495 10.0.0.2:6379`",
        "a client that knows nothing of clusters talks to one, or the slots move just now. Retried with `redis+cluster://`",
        "write `redis+cluster://` instead of `redis://` in `REDIS_URL`",
    ),
    RedisError(
        "`ERR`",
        "`max number of clients reached`",
        "Redis has `maxclients` connections, 10,000 by default. Retried",
        "raise `maxclients` and the limit of open files of Redis, or find who holds them: `CLIENT LIST`. A relay process takes "
        "at most `RELAY_REDIS_MAX_CONNECTIONS` and some 20 more",
    ),
    RedisError(
        "`ERR`",
        "`unknown command`",
        "the command was renamed or disabled, or Redis is too old",
        "allow the commands that [deploy.md](deploy.md#highly-available-redis) names",
    ),
)


def explained(error: str) -> str:
    """Return an error of Redis, followed by what it means and what to do where that is known."""
    for each in REDIS_ERRORS:
        if any(quote in error for quote in each.quotes):
            said = f"{error}: {each.meaning}; {each.remedy}"
            return re.sub(r"\*\*|\[([^\]]*)\]\(([^)]*)\)", lambda link: link[1] or "", said)
    return error
