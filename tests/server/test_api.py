"""What /api answers when Redis cannot be asked."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from quart_trio import QuartTrio
from relay_wire.publications import ScriptCall

from relay.core.errors import BrokerBusy, BrokerError, BrokerRefused, BrokerUnavailable
from relay.server.api import add_api
from relay.server.auth.access import Access
from relay.server.auth.authenticator import OpenAuthenticator
from relay.server.auth.tickets import Tickets
from relay.server.task_paths import SCOPE_KEY, TaskPaths


async def no_redis(calls: Sequence[ScriptCall]) -> list[Any]:
    raise BrokerUnavailable("there is no Redis in this test")


class FailingTasks:
    def __init__(self, error: BrokerError) -> None:
        self.error = error

    async def get(self, task_id: str) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (BrokerBusy("too many", retry_after=2.5), "3"),
        (BrokerUnavailable("Redis cannot be reached: Error 111 connecting to 10.0.0.5:6379"), "1"),
        (BrokerRefused("no"), "1"),
    ],
)
async def test_a_client_is_told_when_to_try_again(error: BrokerError, retry_after: str) -> None:
    app = QuartTrio("test")
    access = Access(OpenAuthenticator(), Tickets(no_redis))
    relay: Any = SimpleNamespace(running=SimpleNamespace(tasks=FailingTasks(error), access=access))
    paths = TaskPaths("/api")
    add_api(app, relay, paths)
    answer = await app.test_client().get(paths.task_route, scope_base={SCOPE_KEY: "t"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == retry_after
    body = await answer.get_json()
    assert body["code"] == "unavailable"
    assert "10.0.0.5" not in body["message"]
