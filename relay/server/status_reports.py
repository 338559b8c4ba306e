"""The status of all relays on this Redis: each is asked for its report, and Redis for what it uses. At most once a second."""

from collections.abc import Awaitable, Callable, Iterable
from time import monotonic

import msgspec
import trio

from relay.broker.nodes import Nodes
from relay.broker.server_usage import ServerUsage
from relay.broker.service import RedisBroker
from relay.broker.task_store import TaskStore
from relay.config import Settings
from relay.core.errors import BrokerError
from relay.core.json_errors import NOT_JSON
from relay.core.status import RedisServer, Relay, Status, Tasks, malformed_of, slowest_of, totals_of
from relay.server.node_reports import STATUS
from relay.server.relay_report import RelayReports

#: Seconds for which a status is shown to all who ask: however many do, each relay is asked once in that time.
_FRESH = 1.0

_decode = msgspec.json.Decoder(Relay).decode


class StatusReports:
    """Gathers the status.

    Args:
        nodes: All relays.
        redis: The connection to Redis.
        tasks: The tasks in Redis.
        own: This relay's own report, which is there without Redis, too.
        settings: Whether clients need grants, and the profile.
    """

    def __init__(
        self, nodes: Nodes, redis: RedisBroker, tasks: TaskStore, own: RelayReports, settings: Settings
    ) -> None:
        self._nodes = nodes
        self._redis = redis
        self._tasks = tasks
        self.own = own
        self._settings = settings
        self._lock = trio.Lock()
        self._last: Status | None = None
        self._last_at = 0.0

    async def gather(self) -> Status:
        """Return the status of all relays. It takes a second longer while one that was there of late does not answer."""
        async with self._lock:
            if self._last is None or monotonic() - self._last_at >= _FRESH:
                self._last = await self._ask()
                self._last_at = monotonic()
            return self._last

    async def _ask(self) -> Status:
        answers: dict[str, bytes] = {}
        silent: list[str] = []
        servers: dict[str, ServerUsage] = {}
        counts: Tasks | None = None
        errors: list[str] = []

        async def attempt(ask: Callable[[], Awaitable[None]]) -> None:
            try:
                await ask()
            except BrokerError as error:
                errors.append(error.public_message)

        async def survey() -> None:
            nonlocal answers, silent
            answers, silent = await self._nodes.survey(STATUS)

        async def usage() -> None:
            nonlocal servers
            servers = await self._redis.read_usage()

        async def count() -> None:
            nonlocal counts
            counts = Tasks(*await self._tasks.counts())

        if self._redis.alive:
            async with trio.open_nursery() as nursery:
                for ask in (survey, usage, count):
                    nursery.start_soon(attempt, ask)
        else:
            errors.append("redis is not reachable")
        own = self.own.report(self._nodes.uid)
        others, unread = _read((name, answer) for name, answer in answers.items() if name != own.id)
        relays = sorted([own, *others], key=lambda relay: relay.name)
        return Status(
            version=own.version,
            status=own.status,
            answered_by=own.id,
            needs_grants=self._settings.needs_grants,
            profile=self._settings.profile,
            relays=relays,
            silent=sorted({*silent, *unread} - {own.id}),
            totals=totals_of(relays),
            redis=[RedisServer(name, *each) for name, each in sorted(servers.items())],
            redis_error=errors[0] if errors else None,
            tasks=counts,
            slowest=slowest_of(relays),
            malformed=malformed_of(relays),
        )


def _read(answers: Iterable[tuple[str, bytes]]) -> tuple[list[Relay], list[str]]:
    """Return the reports of relays, and the names of those whose answers cannot be read: they are of another version."""
    relays: list[Relay] = []
    unread: list[str] = []
    for name, answer in answers:
        try:
            relays.append(_decode(answer))
        except NOT_JSON:
            unread.append(name)
    return relays, unread
