"""A queue's own Redis."""

from collections.abc import Iterator

import pytest

from tests.harness import RedisServer


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The queue's Redis, which is not the relays'."""
    with RedisServer(tmp_path_factory.mktemp("broker"), "--save", "") as server:
        yield server
