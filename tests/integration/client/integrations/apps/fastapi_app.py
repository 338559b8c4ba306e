"""An application on FastAPI: a server that has background tasks, and the process that sends requests to it."""

import os
import urllib.request
from typing import Annotated

from fastapi import Depends, FastAPI
from relay_client.integrations.fastapi import RelayTasks, relay_tasks

from tests.integration.client.integrations.apps import options, work

app = FastAPI()

Tasks = Annotated[RelayTasks, Depends(relay_tasks(title=options.title, owner=options.owner))]


def story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


async def async_story(kind: str, token: str, secret: str) -> None:
    await work.do_async(kind, token)


@app.post("/{kind}/{token}")
async def begin(kind: str, token: str, tasks: Tasks) -> str:
    function = async_story if kind == "cancellable" else story
    return tasks.add_task(function, kind, token, secret=work.SECRET)


def enqueue(kind: str, token: str) -> str:
    url = f"http://127.0.0.1:{os.environ['BROKER_PORT']}/{kind}/{token}"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60) as answer:
        return str(answer.read().decode().strip('"'))
