"""The names of Redis keys: on a cluster, all that one script touches lies on one node."""

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot
from relay_wire import keys

channels = st.text(min_size=1, max_size=30) | st.text(min_size=1, max_size=30).map("task:{}".format)


@given(channels)
def test_all_keys_of_a_channel_share_a_slot_with_its_redis_channel(channel: str) -> None:
    names = [keys.pubsub_channel(channel), keys.meta(channel), keys.log(channel), keys.state(channel)]
    names += keys.channel_keys(channel)
    assert len({key_slot(name.encode()) for name in names}) == 1


@given(channels)
def test_the_channel_can_be_read_from_the_redis_channel(channel: str) -> None:
    assert keys.channel_of(keys.pubsub_channel(channel)) == channel


@given(channels)
def test_there_are_64_hash_tags(channel: str) -> None:
    """Their number is part of the stored data: another one would hide it."""
    assert keys.tag_of(keys.pubsub_channel(channel)) in {str(number) for number in range(64)}
    assert keys.BUCKETS == 64


def test_the_tag_is_what_redis_hashes() -> None:
    for name, tag in (
        ("a{b}c", "b"),
        ("{b}", "b"),
        ("a{}c", "a{}c"),
        ("a{b", "a{b"),
        ("a}b{c}", "c"),
        ("a{b}{c}", "b"),
    ):
        assert keys.tag_of(name) == tag
        assert key_slot(name.encode()) == key_slot(f"{{{tag}}}".encode() if tag != name else name.encode())


def test_a_task_has_the_indexes_of_its_bucket() -> None:
    *own, tasks, running = keys.channel_keys("task:t")
    bucket = int(keys.tag_of(tasks))
    assert own == [keys.meta("task:t"), keys.log("task:t"), keys.state("task:t"), keys.generation(bucket)]
    assert (tasks, running) == (keys.tasks(bucket), keys.running(bucket))
    general_publication = [keys.meta("general"), keys.log("general"), keys.state("general")]
    assert list(keys.channel_keys("general"))[:3] == general_publication
