"""The relays on one Redis: a question to all of them, and what each answers."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NamedTuple, NoReturn
from uuid import uuid4

import msgspec
import structlog
import trio
from relay_wire import keys
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerUnavailable
from relay.core.json_errors import NOT_JSON
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.nodes")

#: Seconds for which Redis remembers a relay that does not announce itself again, and between two announcements.
_NODE_TTL = 10
_INTERVAL = 3.0

#: Seconds within which the relays have to answer, and between two looks for their answers.
_ANSWER_SECONDS = 1.0
_POLL_SECONDS = 0.02

#: Seconds for which answers are kept, and most bytes of one.
_ANSWER_TTL = 10
MAX_ANSWER_BYTES = 1024 * 1024

#: Questions that wait for their turn, and most relays.
_MAX_QUESTIONS = 64
_MAX_NODES = 1000

_CLOCK = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000) "
_ANNOUNCE = Script.of(
    _CLOCK + "redis.call('ZADD', KEYS[1], now, ARGV[1]) "
    "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2]) redis.call('PEXPIRE', KEYS[1], ARGV[2])"
)
_LIVING = Script.of(_CLOCK + "return redis.call('ZRANGEBYSCORE', KEYS[1], now - ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])")
_LEAVE = Script.of("return redis.call('ZREM', KEYS[1], ARGV[1])")
_ANSWER = Script.of("redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) redis.call('PEXPIRE', KEYS[1], ARGV[3]) return 1")
_ANSWERS = Script.of("return redis.call('HGETALL', KEYS[1])")


class Survey(NamedTuple):
    """What came of a question to all relays.

    Attributes:
        answers: The answers that came in time, by the names of the relays.
        silent: The names of those that have announced themselves of late and did not answer.
    """

    answers: dict[str, bytes]
    silent: list[str]


class _Question(msgspec.Struct):
    id: str
    subject: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Question).decode


class Nodes:
    """This relay among the others. `run` must be running, and `on_message` be called with messages on `keys.QUESTIONS`.

    Args:
        run_calls: Runs scripts.
        publish: Publishes a message on a channel.
        answer: Returns this relay's answer, as JSON, by its name and the question.

    Attributes:
        uid: This relay's name among the others.
    """

    def __init__(
        self,
        run_calls: RunCalls,
        publish: Callable[[str, bytes], Awaitable[int]],
        answer: Callable[[str, str], bytes],
    ) -> None:
        self.uid = str(uuid4())
        self._run_calls = run_calls
        self._publish = publish
        self._answer = answer
        self._send, self._receive = trio.open_memory_channel[_Question](_MAX_QUESTIONS)

    def on_message(self, _channel: str, message: bytes) -> None:
        """Take a question. Those beyond the limit are not answered: who asks gets what the others say."""
        try:
            self._send.send_nowait(_decode(message))
        except NOT_JSON:
            _log.warning("message skipped: not a question", size=len(message))
        except trio.WouldBlock:
            _log.warning("question skipped: too many wait")

    async def ask(self, subject: str) -> dict[str, bytes]:
        """Ask all relays something, see `survey`. Returns the answers that came in time, by the names of the relays."""
        return (await self.survey(subject)).answers

    async def survey(self, subject: str) -> Survey:
        """Ask all relays something, and wait a second at most for their answers.

        Raises:
            BrokerError: Redis does not answer.
        """
        question = _Question(uuid4().hex, subject)
        living = await self._living()
        await self._publish(keys.QUESTIONS, _encode(question))
        until = monotonic() + _ANSWER_SECONDS
        while True:
            answers = await self._read_answers(question.id)
            if living <= answers.keys() or monotonic() >= until:
                return Survey(answers, sorted(living - answers.keys()))
            await trio.sleep(_POLL_SECONDS)

    async def _living(self) -> set[str]:
        (names,) = await self._run_calls([ScriptCall(_LIVING, [keys.NODES], [_NODE_TTL * 1000, _MAX_NODES])])
        if isinstance(names, BrokerError):
            raise names
        return {name.decode(errors="replace") for name in names}

    async def _read_answers(self, question_id: str) -> dict[str, bytes]:
        (flat,) = await self._run_calls([ScriptCall(_ANSWERS, [keys.answers(question_id)], [])])
        if isinstance(flat, BrokerError):
            raise flat
        items = flat.items() if isinstance(flat, dict) else zip(*[iter(flat)] * 2, strict=True)
        return {name.decode(errors="replace"): answer for name, answer in items}

    async def run(self) -> NoReturn:
        """Announce this relay, and answer questions, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer_questions)
                while True:
                    await self._try([ScriptCall(_ANNOUNCE, [keys.NODES], [self.uid, _NODE_TTL * 1000])])
                    await sleep_until_tick(_INTERVAL)
        finally:
            with trio.move_on_after(_ANSWER_SECONDS, shield=True):
                await self._try([ScriptCall(_LEAVE, [keys.NODES], [self.uid])])
        raise AssertionError("it runs until it is cancelled")

    async def _answer_questions(self) -> None:
        async for question in self._receive:
            answer = self._answer(self.uid, question.subject)
            if len(answer) <= MAX_ANSWER_BYTES:
                names = [keys.answers(question.id)]
                await self._try([ScriptCall(_ANSWER, names, [self.uid, answer, _ANSWER_TTL * 1000])])

    async def _try(self, calls: list[ScriptCall]) -> None:
        try:
            (result,) = await self._run_calls(calls)
        except BrokerUnavailable:
            return  # the next announcement says it; a request does not wait indefinitely
        if isinstance(result, BrokerError):
            _log.error("redis refused what this relay has for the others", error=str(result))
