"""Reading what a Redis server uses from its INFO."""

from hypothesis import given
from hypothesis import strategies as st

from relay.broker.server_usage import ServerUsage

INFO = """# Memory\r
used_memory:1048576\r
used_memory_human:1.00M\r
maxmemory:0\r
# Stats\r
evicted_keys:7\r
connected_clients:3\r
"""


def test_the_numbers_of_a_server() -> None:
    assert ServerUsage.parse(INFO) == ServerUsage(1_048_576, 0, 3, 7)


def test_what_a_server_does_not_tell_is_none() -> None:
    assert ServerUsage.parse("") == ServerUsage(None, None, None, None)
    assert ServerUsage.parse("used_memory:much\nmaxmemory:-1\nevicted_keys:²") == ServerUsage(None, None, None, None)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    ServerUsage.parse(text)
    ServerUsage.parse(f"used_memory:{text}")
