"""The servers that Relay is compared with. Each is an adapter that runs when what it needs is there, and says so when not."""

from benchmarks.peers.base import Peer
from benchmarks.peers.centrifugo import Centrifugo
from benchmarks.peers.django import DjangoChannels
from benchmarks.peers.litestar import Litestar
from benchmarks.peers.nats import Nats
from benchmarks.peers.nchan import Nchan
from benchmarks.peers.node import NodeWs
from benchmarks.peers.plain import PLAIN_PEERS
from benchmarks.peers.relay import RELAY, RELAY_DURABLE, Relay
from benchmarks.peers.socketio import PythonSocketIo, SocketIo

PEERS: tuple[Peer, ...] = (
    *PLAIN_PEERS, Litestar(), DjangoChannels(), PythonSocketIo(), NodeWs(), SocketIo(), Nchan(), Nats(), Centrifugo(),
)  # fmt: skip

__all__ = ["PEERS", "RELAY", "RELAY_DURABLE", "Peer", "Relay"]
