"""What remains of a client that has gone: nothing, without the help of the cyclic garbage collector."""

import gc
import sys
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from relay.core.closecodes import Close
from relay.protocols.connection import connection_of
from relay.protocols.frames import FrameReader
from tests.harness import masked_frame, masked_text
from tests.server.world import MakeWorld, Peer, World, settled, small_pair


def objects_of_relay() -> Counter[str]:
    """All objects of Relay's own classes, by class: whatever a cycle of a client's holds, one of them is in it."""
    kinds = (type(item) for item in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("relay."))


async def one_client(world: World, behave: "Behaviour") -> None:
    limit = world.settings.max_message_bytes
    reader = FrameReader(limit, partial(connection_of, "permessage-deflate", limit))
    session, peer, _ = world.session(small_pair(), reader=reader)
    world.nursery.start_soon(session.run)
    del session, reader
    await settled()
    await behave(world, peer)
    await settled()
    world.peers.clear()
    assert len(world.sessions) == 0


def compressed(text: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return masked_frame(0xC1, (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4])


async def hangs_up(world: World, peer: Peer) -> None:
    peer.hang_up()


async def subscribes(world: World, peer: Peer) -> None:
    peer.send({"type": "subscribe", "task_id": "a"}, {"type": "subscribe", "task_id": "b"})
    peer.send({"type": "subscribe", "task_id": "a", "position": None}, {"type": "unsubscribe", "task_id": "b"})
    await settled()
    peer.hang_up()


async def compresses(world: World, peer: Peer) -> None:
    peer.send_bytes(compressed(b'{"type":"ping"}'))
    await settled()
    peer.send_bytes(compressed(b'{"type":"subscribe","task_id":"c"}')[:-1])  # not finished
    await settled()
    peer.hang_up()


async def sends_a_bomb(world: World, peer: Peer) -> None:
    peer.send_bytes(compressed(bytes(1 << 20)))
    await settled()
    peer.hang_up()


async def sends_what_is_no_frame(world: World, peer: Peer) -> None:
    peer.send_bytes(b"\x81\x02ab")
    await settled()
    peer.hang_up()


async def says_goodbye(world: World, peer: Peer) -> None:
    peer.send_bytes(masked_frame(0x88, (1000).to_bytes(2)))
    await settled()
    peer.hang_up()


async def is_too_slow(world: World, peer: Peer) -> None:
    for number in range(40):
        world.publish_news(number, pad=2000)
    await settled()
    peer.hang_up()


async def is_drained(world: World, peer: Peer) -> None:
    for session in list(world.sessions):
        session.close(Close.SHUTDOWN)
    await settled()
    peer.hang_up()


async def does_not_finish_a_message(world: World, peer: Peer) -> None:
    peer.send_bytes(masked_text(b"x" * 200)[:50])
    await trio.sleep(world.settings.message_timeout + 1)
    peer.hang_up()


Behaviour = Callable[[World, Peer], Awaitable[None]]

_BEHAVIOURS: list[Behaviour] = [
    hangs_up,
    subscribes,
    compresses,
    sends_a_bomb,
    sends_what_is_no_frame,
    says_goodbye,
    is_too_slow,
    is_drained,
]
if sys.version_info < (3, 12):  # later ones leave what a time-out ended to the cyclic garbage collector
    _BEHAVIOURS.append(does_not_finish_a_message)


@pytest.mark.parametrize("behave", _BEHAVIOURS, ids=lambda behave: behave.__name__)
async def test_a_client_that_has_gone_leaves_no_object(
    autojump_clock: MockClock, make_world: MakeWorld, behave: Behaviour
) -> None:
    world = make_world(queue_messages=10, coalesce_after=5)
    await one_client(world, behave)  # which fills what all share
    gc.collect()
    before = objects_of_relay()
    gc.disable()
    try:
        for _ in range(3):
            await one_client(world, behave)
        assert objects_of_relay() - before == Counter()
    finally:
        gc.enable()
