"""An application on Huey."""

import os

from huey import RedisHuey
from relay_client.integrations.huey import install

from tests.integration.client.integrations.apps import options, work

huey = RedisHuey("stories", url=os.environ["BROKER_URL"])
install(huey, title=options.title, owner=options.owner)


@huey.task()
def story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


@huey.task(retries=2)
def flaky_story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


def enqueue(kind: str, token: str) -> str:
    task = flaky_story if kind == "flaky" else story
    return str(task(kind, token, secret=work.SECRET).id)


def stop(task_id: str) -> str:
    huey.revoke_by_id(task_id)
    return task_id
