"""Two users who create the same task at the same moment, over two relays: it is the one's, and never the other's."""

from concurrent.futures import ThreadPoolExecutor

from tests.conftest import StartRelay
from tests.harness import RedisServer
from tests.integration.auth.tokens import SETTINGS, bearer, call, token

SCOPES = {"watch": {"owned": True}, "publish": {"owned": True}}


def test_one_of_two_creators_has_the_task(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relays = {"ann": start_relay(**SETTINGS), "bob": start_relay(**SETTINGS)}
    headers = {name: bearer(token(sub=name, relay=SCOPES)) for name in relays}

    def create(name: str, task_id: str) -> int:
        body = {"data": {"by": name}, "owner": name}
        return call(relays[name], f"/api/tasks/{task_id}", headers[name], "POST", body)[0]

    winners = []
    with ThreadPoolExecutor(2) as threads:
        for number in range(30):
            statuses = list(threads.map(create, relays, [f"race-{number}"] * 2))
            assert sorted(statuses) == [200, 403], statuses
            winners.append(list(relays)[statuses.index(200)])
            for name in relays:
                status, task = call(relays[name], f"/api/tasks/race-{number}", headers[name])
                assert (status, status == 200 and task["data"]["by"]) == (
                    (200, name) if name == winners[-1] else (403, False)
                )


def test_who_loses_a_task_cannot_write_to_it_and_who_gets_it_can(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(**SETTINGS)
    ann, bob = (bearer(token(sub=name, relay=SCOPES)) for name in ("ann", "bob"))
    path, body = "/api/tasks/handed-over", {"data": {"n": 1}}
    assert call(relay, path, ann, "POST", {**body, "owner": "ann"})[0] == 200
    assert call(relay, path, ann, "POST", {**body, "owner": "bob"})[0] == 200, "she may give it away"
    assert call(relay, path, ann, "POST", body)[0] == 403
    assert call(relay, path, bob, "POST", body)[0] == 200
    batch = {"updates": [{"task_id": "handed-over", "data": {"n": 2}}, {"task_id": "anns", "data": {}, "owner": "ann"}]}
    status, answer = call(relay, "/api/batch", ann, "POST", batch)
    assert (status, [each.get("error", {}).get("code") for each in answer["results"]]) == (207, ["forbidden", None])
