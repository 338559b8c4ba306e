"""An application on Prefect, which runs its flows itself, with a server of its own."""

import os
import threading
from queue import Queue

os.environ |= {
    "PREFECT_HOME": f"{os.environ['STORY_DIRECTORY']}/prefect",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}

from prefect import flow, runtime, task
from relay_client.integrations.prefect import install

from tests.integration.client.integrations.apps import options, work

install(title=options.title, owner=options.owner)

ids: "Queue[str]" = Queue()
told: set[str] = set()


def tell(token: str, ids_of_runs: str) -> None:
    """Tell the ids once, not in each attempt."""
    if token not in told:
        told.add(token)
        ids.put(ids_of_runs)


@flow
def story(kind: str, token: str, secret: str) -> None:
    tell(token, runtime.flow_run.id)
    work.do(kind, token)


@flow(name="flaky_story", retries=2, retry_delay_seconds=1)
def flaky_story(kind: str, token: str, secret: str) -> None:
    tell(token, runtime.flow_run.id)
    work.do(kind, token)


@task(name="part", retries=1, retry_delay_seconds=0)
def part(kind: str, token: str) -> str:
    task_id = str(runtime.task_run.id)
    work.do("flaky", token)
    return task_id


@flow(name="parts_story")
def parts_story(kind: str, token: str, secret: str) -> None:
    tell(token, f"{runtime.flow_run.id},{part(kind=kind, token=token)}")
    work.do("work", token)


FLOWS = {"flaky": flaky_story, "parts": parts_story}


def enqueue(kind: str, token: str) -> str:
    chosen = FLOWS.get(kind, story)
    run = threading.Thread(target=lambda: chosen(kind=kind, token=token, secret=work.SECRET, return_state=True))
    run.start()
    return ids.get(timeout=60)
