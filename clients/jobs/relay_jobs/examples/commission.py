"""Commissions: a post is fetched, a product designed, an image generated and stamped. The work is simulated.

relay-worker relay_jobs.examples.commission:worker

Needs ``subreddit`` among its parameters; ``seconds`` says how long it takes.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from relay_client import Task

from relay_jobs import TaskFailed, Worker

worker = Worker()

#: Stage, what watchers read, the progress when it is reached, and its part of the time.
STAGES = (
    ("post_fetching", "Looking for a post", 5, 0.1),
    ("post_fetched", "Found a post", 15, 0.1),
    ("product_designed", "Designed a product", 30, 0.1),
    ("image_generation_started", "Generating the image", 40, 0.5),
    ("image_generated", "The image is there", 80, 0.1),
    ("image_stamped", "Stamped it", 90, 0.1),
    ("commission_complete", "Done", 100, 0.0),
)


@worker.task("commission", attempts=3)
async def commission(task: Task, params: Mapping[str, Any]) -> dict[str, Any]:
    """One commission."""
    subreddit = params.get("subreddit")
    if not isinstance(subreddit, str) or not subreddit:
        raise TaskFailed("a commission needs a subreddit")
    seconds = float(params.get("seconds", 8.0)) * random.uniform(0.8, 1.2)
    for stage, message, progress, part in STAGES:
        task.progress(progress, message, stage=stage)
        if stage == "image_generation_started":
            await _generate(task, seconds * part)
        else:
            await asyncio.sleep(seconds * part)
    return {"image_url": f"https://images.example/{task.id}.png"}


async def _generate(task: Task, seconds: float) -> None:
    """Report each step, as image models do; what is too much for watchers is merged before it is sent."""
    for step in task.track(range(50), start=40, end=80):
        await asyncio.sleep(seconds / 50)
        task.progress(message=f"Step {step + 1} of 50")
