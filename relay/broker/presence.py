"""Who is subscribed to which channel, over all relays: kept in Redis, bounded, and forgotten when no relay confirms it.

Each relay confirms its own clients again and again. What changes, what is confirmed and what is read goes to Redis in one
order, so a client that has just come finds itself. While Redis is away nobody can say who is there; what changes meanwhile is
kept, and when Redis is back it gets that, and all clients, since it may have forgotten them.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NoReturn

import structlog
import trio
from relay_wire import keys
from relay_wire.publications import ScriptCall, unpersisted_message
from relay_wire.scripts import Script

from relay.broker.contract import RunCalls
from relay.core.errors import BrokerBusy, BrokerError, BrokerUnavailable
from relay.core.membership import JOIN, LEAVE, Member, Present, members_channel

_log = structlog.get_logger("relay.presence")

#: Seconds after which a client is forgotten that its relay does not confirm, and between two confirmations.
TTL = 60.0
CONFIRM_INTERVAL = 20.0

#: Seconds between two attempts while Redis is away.
_RETRY_INTERVAL = 1.0

#: Most clients that are kept for one channel. Those beyond are not listed.
MAX_PRESENT = 10_000

#: Clients in one call, and calls in one round trip.
_CLIENTS_AT_ONCE = 128
_CALLS_AT_ONCE = 32

#: Clients that came or left and that Redis does not know yet.
_MAX_CHANGES = 100_000

#: Reads that may wait, and seconds within which one ends.
_MAX_READS = 1024
_READ_TIMEOUT = 5.0

_NOW = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000) "
_FORGET = (
    "local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000) "
    "if #gone > 0 then redis.call('ZREM', KEYS[1], unpack(gone)) redis.call('HDEL', KEYS[2], unpack(gone)) end "
)
# ARGV: ms, most, then client and info in turn. Returns the clients that are new.
_ADD = Script.of(
    _NOW + _FORGET + "local new, room = {}, ARGV[2] - redis.call('ZCARD', KEYS[1]) "
    "for i = 3, #ARGV, 2 do local known = redis.call('ZSCORE', KEYS[1], ARGV[i]) "
    "if known or room > 0 then redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) "
    "redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) "
    "if not known then room = room - 1 new[#new + 1] = ARGV[i] end end end "
    "redis.call('PEXPIRE', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[2], ARGV[1]) return new"
)
# ARGV: clients. Returns those that were there.
_REMOVE = Script.of(
    "local gone = {} for _, client in ipairs(ARGV) do redis.call('HDEL', KEYS[2], client) "
    "if redis.call('ZREM', KEYS[1], client) == 1 then gone[#gone + 1] = client end end return gone"
)
_READ = Script.of(_NOW + _FORGET + "return redis.call('HGETALL', KEYS[2])")
# ARGV: PUBLISH or SPUBLISH, the channel, messages. The key says where the channel is.
_ANNOUNCE = Script.of("for i = 3, #ARGV do redis.call(ARGV[1], ARGV[2], ARGV[i]) end return #KEYS")


class _Read:
    """A read of one channel, and what came of it."""

    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Present | BrokerError | None = None


def _call(script: Script, channel: str, values: Iterable[Any]) -> ScriptCall:
    return ScriptCall(script, list(keys.presence(channel)), list(values))


class Presence:
    """The presence of this relay's clients, and that of all. `run` must be running.

    Args:
        run_calls: Runs scripts, on connections for what clients ask for.
        sharded: Whether the server is a cluster.
        ttl: Seconds after which a client is forgotten that nobody confirms.
        confirm_interval: Seconds between two confirmations.
    """

    def __init__(
        self, run_calls: RunCalls, *, sharded: bool, ttl: float = TTL, confirm_interval: float = CONFIRM_INTERVAL
    ) -> None:
        self._run_calls = run_calls
        self._ttl = ttl
        self._confirm_interval = confirm_interval
        self._publish = "SPUBLISH" if sharded else "PUBLISH"
        self._members: dict[str, dict[str, Member]] = {}
        #: What Redis does not know yet: clients that came or are confirmed, or left as they were.
        self._changed: dict[tuple[str, str], Member | None] = {}
        #: Those of them that came, which is announced once.
        self._came: set[tuple[str, str]] = set()
        self._reads: dict[str, _Read] = {}
        self._has_work = trio.Event()
        self._is_unavailable = False
        self._available_again = trio.Event()

    # What sessions do; nothing but `read` waits.

    def add(self, channel: str, client: str, member: Member) -> None:
        """A client of this relay has come to a channel."""
        self._members.setdefault(channel, {})[client] = member
        self._changed[channel, client] = None
        self._came.add((channel, client))
        self._has_work.set()

    def remove(self, channel: str, client: str) -> None:
        """A client of this relay has left a channel."""
        members = self._members.get(channel, {})
        member = members.pop(client, None)
        if member is None:
            return
        if not members:
            del self._members[channel]
        if len(self._changed) < _MAX_CHANGES:
            self._changed[channel, client] = member
            self._has_work.set()
        else:  # it expires, since nobody confirms it
            self._came.discard((channel, client))

    async def read(self, channel: str) -> Present:
        """Return who is in a channel, over all relays.

        Raises:
            BrokerBusy: Too many wait for that.
            BrokerUnavailable: Redis does not answer in time.
            BrokerRefused: It cannot be read.
        """
        read = self._reads.get(channel)
        if read is None:
            if len(self._reads) >= _MAX_READS:
                raise BrokerBusy("too many requests wait for Redis now", retry_after=1.0)
            read = self._reads[channel] = _Read()
            self._has_work.set()
        with trio.move_on_after(_READ_TIMEOUT):
            await read.done.wait()
        if isinstance(read.result, BrokerError):
            raise read.result
        if read.result is None:
            raise BrokerUnavailable("Redis did not answer in time")
        return read.result

    # The task.

    async def run(self) -> NoReturn:
        """Tell Redis what changes, and confirm what does not, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._confirm_all)
            while True:
                await self._has_work.wait()
                await trio.lowlevel.checkpoint()  # what comes in this turn goes along
                try:
                    await self._work()
                except BrokerError as error:
                    self._is_unavailable |= not isinstance(error, BrokerBusy)
                    _fail(self._reads.values(), error)
                    self._reads.clear()
                    await trio.sleep(_RETRY_INTERVAL)
                else:
                    if self._is_unavailable:
                        self._is_unavailable = False
                        self._available_again.set()
        raise AssertionError("presence is kept until cancelled")

    async def _confirm_all(self) -> NoReturn:
        while True:
            with trio.move_on_after(self._confirm_interval):
                await self._available_again.wait()
            self._available_again = trio.Event()
            pairs = [(channel, client) for channel, members in self._members.items() for client in members]
            while pairs:
                for channel, client in pairs[:_CLIENTS_AT_ONCE]:
                    if client in self._members.get(channel, {}):
                        self._changed.setdefault((channel, client), None)
                del pairs[:_CLIENTS_AT_ONCE]
                self._has_work.set()
                await trio.sleep(0.01)  # others have their turns in between

    async def _work(self) -> None:
        added, removed = self._take_changes()
        reads: list[str] = [] if self._changed else list(islice(self._reads, _CALLS_AT_ONCE))
        calls = [self._add_call(channel, clients) for channel, clients in added.items()]
        calls += [_call(_REMOVE, channel, clients) for channel, clients in removed.items()]
        calls += [_call(_READ, channel, ()) for channel in reads]
        # Who asks from here on is answered by a later read.
        asked = {channel: self._reads.pop(channel) for channel in reads}
        if not self._changed and not self._reads:
            self._has_work = trio.Event()
        try:
            answers = iter(await self._run_calls(calls))
        except BrokerError as error:
            self._keep_changes(added, removed)
            _fail(asked.values(), error)
            raise
        announcements: dict[str, list[bytes]] = {}
        for channel, clients in added.items():
            came = {client: member for client, member in clients.items() if (channel, client) in self._came}
            if self._note(announcements, channel, JOIN, came, next(answers)):
                self._came.difference_update((channel, client) for client in came)
        for channel, gone in removed.items():
            answer = next(answers)
            # Those that left at once were not announced yet.
            passed = [client for client in gone if (channel, client) in self._came]
            self._came.difference_update((channel, client) for client in passed)
            names = [client.encode() for client in passed]
            self._note(announcements, channel, JOIN, gone, names)
            left = list(dict.fromkeys([*names, *answer])) if isinstance(answer, list) else answer
            self._note(announcements, channel, LEAVE, gone, left)
        for channel, read in asked.items():
            read.result = _present(channel, next(answers))
            read.done.set()
        if announcements:
            await self._announce(announcements)

    def _take_changes(self) -> tuple[dict[str, dict[str, Member]], dict[str, dict[str, Member]]]:
        """Take some of what has changed: who came to each channel, and who left it."""
        added: dict[str, dict[str, Member]] = {}
        removed: dict[str, dict[str, Member]] = {}
        for channel, client in list(islice(self._changed, _CLIENTS_AT_ONCE)):
            if len(added) + len(removed) >= _CALLS_AT_ONCE:
                break
            left = self._changed.pop((channel, client))
            member = self._members.get(channel, {}).get(client)
            if member is not None:
                added.setdefault(channel, {})[client] = member
            elif left is not None:
                removed.setdefault(channel, {})[client] = left
        return added, removed

    def _keep_changes(
        self, added: Mapping[str, Mapping[str, Member]], removed: Mapping[str, Mapping[str, Member]]
    ) -> None:
        """Keep changes that Redis did not take, unless there are newer ones."""
        for channel, clients in added.items():
            for client in clients:
                if client in self._members.get(channel, {}):
                    self._changed.setdefault((channel, client), None)
        for channel, clients in removed.items():
            for client, member in clients.items():
                if len(self._changed) < _MAX_CHANGES:  # else it expires
                    self._changed.setdefault((channel, client), member)
        self._has_work.set()

    def _add_call(self, channel: str, clients: Mapping[str, Member]) -> ScriptCall:
        values: list[Any] = [round(self._ttl * 1000), MAX_PRESENT]
        for client, member in clients.items():
            values += (client, member.info)
        return _call(_ADD, channel, values)

    @staticmethod
    def _note(
        announcements: dict[str, list[bytes]], channel: str, kind: str, clients: Mapping[str, Member], answer: Any
    ) -> bool:
        """Note what is to be announced; return whether Redis has taken it."""
        if isinstance(answer, BrokerError):
            _log.error("presence cannot be kept", channel=channel, error=str(answer))
            return False
        for name in answer if isinstance(answer, list) else ():
            member = clients.get(name.decode() if isinstance(name, bytes) else "")
            if member is not None and member.announced:
                announcements.setdefault(channel, []).append(unpersisted_message(kind, member.info))
        return True

    async def _announce(self, announcements: Mapping[str, list[bytes]]) -> None:
        calls = []
        for channel, messages in announcements.items():
            name = keys.pubsub_channel(members_channel(channel))
            calls.append(ScriptCall(_ANNOUNCE, [keys.meta(members_channel(channel))], [self._publish, name, *messages]))
        try:
            await self._run_calls(calls)
        except BrokerError as error:
            _log.warning("members that joined or left were not announced", error=str(error), channels=len(calls))


def _fail(reads: Iterable[_Read], error: BrokerError) -> None:
    for read in reads:
        read.result = error
        read.done.set()


def _present(channel: str, answer: Any) -> Present | BrokerError:
    if isinstance(answer, BrokerError):
        return answer
    try:
        names = [name.decode() for name in answer[::2]]
        return Present(dict(zip(names, answer[1::2], strict=True)))
    except (TypeError, AttributeError, ValueError):
        _log.error("presence cannot be read", channel=channel)
        return BrokerUnavailable("the presence of this channel cannot be read")
