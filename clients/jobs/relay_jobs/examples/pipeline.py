"""A pipeline of four steps over some records, in a thread. The work is simulated.

relay-worker relay_jobs.examples.pipeline:worker

``records`` says how many there are, ``seconds`` how long it takes. Some records make trouble now and then: ``trouble`` is the
chance that an attempt fails.
"""

import random
import time
from collections.abc import Mapping
from typing import Any

from relay_client import Task

from relay_jobs import TaskFailed, Worker

worker = Worker(concurrency=4)

STEPS = ("extract", "validate", "transform", "load")


class SourceAway(Exception):
    """The source of the records does not answer: another attempt may help."""


@worker.task("pipeline", attempts=3, backoff=0.5)
def pipeline(task: Task, params: Mapping[str, Any]) -> dict[str, Any]:
    """Each step takes a quarter of the progress. An ordinary function: it may block, and runs in a thread."""
    records = int(params.get("records", 40))
    if not 0 < records <= 100_000:
        raise TaskFailed(f"a pipeline has 1 to 100000 records, not {records}")
    pause = float(params.get("seconds", 6.0)) / len(STEPS) / records
    if random.random() < float(params.get("trouble", 0.0)):
        raise SourceAway("the source of the records does not answer")
    quarter = 100 / len(STEPS)
    for number, step in enumerate(STEPS):
        message = f"{step.capitalize()} {records} records"
        start = number * quarter
        for _ in task.track(range(records), start=start, end=start + quarter, message=message, stage=step):
            time.sleep(pause)
    return {"message": f"{records} records loaded"}
