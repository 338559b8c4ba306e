"""Ten thousand clients on one process."""

import msgspec

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually

CLIENTS = 9_500  # the clients' ends are in the test's process, which may open 20,000 files and has others open


def test_ten_thousand_clients_get_a_broadcast(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay("hypercorn")
    with relay.client():
        pass  # what is made once, at the first connection, is not counted per client
    before = relay.memory()
    clients = [relay.raw_client() for _ in range(CLIENTS)]
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == CLIENTS)
    each = (relay.memory() - before) / CLIENTS
    print(f"{each / 1024:.1f} KiB for each client")
    assert each <= 25 * 1000
    redis_server.publish_general(hello="all")
    expected = msgspec.json.encode({"type": "general_update", "data": {"hello": "all"}})
    frame = bytes((0x81, len(expected))) + expected
    assert {sock.recv(len(frame)) for sock in clients} == {frame}
    for sock in clients:
        sock.close()
    eventually(lambda: relay.metric('relay_connections{transport="hijacked"}') == 0)
    assert relay.metric("relay_subscriptions") == 0
