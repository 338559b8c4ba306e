"""Mutated frames of Centrifuge clients through sessions on sockets: none fails, and when they end nothing is left of them."""

import socket
from collections import Counter
from random import Random

import trio
from trio.testing import MockClock

from relay.core.channels import ChannelPatterns
from relay.core.client_channels import ClientChannels
from relay.core.closecodes import Close
from relay.core.recovery import Snapshot
from relay.core.updates import Position
from relay.protocols.centrifuge import CentrifugeProtocol
from relay.protocols.centrifuge_client import CentrifugeServer
from relay.protocols.centrifuge_commands import Codec
from tests.fuzz import mutated
from tests.fuzz.centrifuge import NAMESPACES, Seeds, message_of
from tests.harness import masked_frame
from tests.server.world import World

#: Clients at a time, and mutated frames of each.
_AT_ONCE, _FRAMES = 20, 2

_TEXT, _BINARY = 0x81, 0x82


class _Rig:
    """Sessions whose clients send what they like, and read nothing."""

    def __init__(self, nursery: trio.Nursery, codec: Codec) -> None:
        self._world = World(nursery, max_clients=_AT_ONCE)
        self._world.load_history = self._load_history
        nursery.start_soon(self._world.context.services.presence.run)
        self._server = CentrifugeServer(ClientChannels(ChannelPatterns(()), NAMESPACES), 25.0, "test", 128)
        self._codec = codec
        self.closings: Counter[Close] = Counter()

    async def _load_history(self, channel: str, since: Position | None) -> Snapshot:
        snapshot = Snapshot(Position("e", 7), None, None)
        self._world.hub.catch_up(channel, snapshot)
        return snapshot

    async def play(self, clients: list[list[bytes]]) -> None:
        """Serve clients, each with its frames, to their end."""
        async with trio.open_nursery() as nursery:
            for frames in clients:
                nursery.start_soon(self._play_one, frames)
        self._world.peers.clear()
        self._world.assert_empty()
        assert len(self._world.context.directory) == 0

    async def _play_one(self, frames: list[bytes]) -> None:
        pair = ours, theirs = socket.socketpair()
        with ours, theirs:
            session, _, _ = self._world.session(pair, CentrifugeProtocol(self._server, self._codec))
            kind = _BINARY if self._codec.is_binary else _TEXT
            for frame in frames:
                message = message_of(self._codec, frame)
                theirs.send(masked_frame(kind, message.encode() if isinstance(message, str) else message))
            theirs.shutdown(socket.SHUT_WR)  # it can still be answered
            await session.run()
        assert session.closing not in (None, Close.INTERNAL_ERROR), frames
        self.closings[session.closing] += 1


def fuzz_sessions(seeds: Seeds, count: int, seed: int) -> Counter[Close]:
    """Send mutated commands to sessions, among whole ones, and after each client has connected.

    Args:
        seeds: What the mutations begin with.
        count: How many mutated ones.
        seed: Of the random choices.

    Returns:
        How the sessions ended.

    Raises:
        AssertionError: A session failed, or something is left of one.
    """
    random = Random(seed)

    def frames() -> list[bytes]:
        chosen = [seeds.connect]
        for _ in range(_FRAMES):
            chosen += (seeds.frame(random.choice(seeds.commands[:4])) for _ in range(random.randrange(3)))
            chosen.append(seeds.frame(mutated(random.choice(seeds.commands), random)))
        return chosen

    async def main() -> Counter[Close]:
        async with trio.open_nursery() as nursery:
            rig = _Rig(nursery, seeds.codec)
            for _ in range(0, count, _AT_ONCE * _FRAMES):
                await rig.play([frames() for _ in range(_AT_ONCE)])
            nursery.cancel_scope.cancel()
        return rig.closings

    return trio.run(main, clock=MockClock(autojump_threshold=0))
