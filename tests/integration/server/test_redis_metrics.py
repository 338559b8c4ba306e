"""What Redis uses, in the metrics: there while Redis answers, absent while it does not, and never waited for by a scrape."""

import re

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually

NAMES = {
    "relay_redis_memory_used_bytes",
    "relay_redis_memory_max_bytes",
    "relay_redis_connected_clients",
    "relay_redis_evicted_keys_total",
}


def usage(relay: RelayServer) -> dict[str, float]:
    """The metrics of the one server, by their names."""
    status, text = relay.get("/metrics")
    assert status == 200
    found = re.findall(r'^(relay_redis_\w+){server="redis"} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_what_redis_uses_while_it_is_there(redis_server: RedisServer, start_relay: StartRelay) -> None:
    with redis_server.client() as client:
        client.config_set("maxmemory", "3mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        for number in range(8):
            client.set(f"filling {number}", b"x" * 500_000)
        client.config_set("maxmemory", "64mb")
        client.delete(*client.keys("filling *"))
        evicted = client.info("stats")["evicted_keys"]
    assert evicted > 0
    relay = start_relay(redis_timeout=0.5, redis_health_interval=0.2)
    eventually(lambda: usage(relay).keys() >= NAMES)
    found = usage(relay)
    assert 500_000 < found["relay_redis_memory_used_bytes"] < 64 * 2**20
    assert found["relay_redis_memory_max_bytes"] == 64 * 2**20
    assert found["relay_redis_connected_clients"] >= 2
    assert found["relay_redis_evicted_keys_total"] == evicted

    redis_server.freeze()
    eventually(lambda: not usage(relay))
    redis_server.thaw()
    eventually(lambda: usage(relay).keys() >= NAMES)
    redis_server.kill()
    eventually(lambda: not usage(relay))
    redis_server.start()
    eventually(lambda: usage(relay).get("relay_redis_evicted_keys_total") == 0)


def test_a_redis_that_may_not_say_is_logged(redis_server: RedisServer, start_relay: StartRelay) -> None:
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
    relay = start_relay()
    eventually(lambda: "redis usage cannot be read" in relay.logged())
    assert usage(relay) == {}
    assert relay.get("/readyz")[0] == 200
