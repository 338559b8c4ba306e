"""What clients publish: checked before it goes to Redis, which is away here."""

import pytest

from relay.config import Settings
from relay.core.errors import BadMessage, BrokerUnavailable, RelayError
from relay.core.grants import EVERYTHING, Decision, Grant
from relay.protocols.base import Publish
from relay.server.session_queries import answer_query
from tests.server.world import services_without_redis


class _Access:
    grant = EVERYTHING

    def decide(self, channel: str, grant: Grant | None = None) -> Decision:
        return Decision.ALLOWED


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"a":1}', BrokerUnavailable),
        (b"[1]", BadMessage),
        (b'{"a":"\xff"}', BadMessage),  # a client that speaks Protocol Buffers sends bytes
        (b'{"a":', BadMessage),
        (b'{"a":"' + b"x" * 300_000 + b'"}', BadMessage),
    ],
    ids=["object", "list", "no UTF-8", "cut off", "too large"],
)
async def test_what_is_published_is_json(data: bytes, error: type[RelayError]) -> None:
    answers: list[RelayError | None] = []

    def answer(result: RelayError | None) -> list[bytes]:
        answers.append(result)
        return []

    services = services_without_redis(Settings(_env_file=None))  # type: ignore[call-arg]
    await answer_query(services, _Access(), Publish("chat:1", data, answer))
    assert [type(each) for each in answers] == [error]
