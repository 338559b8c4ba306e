"""The Celery app. The tasks are as they would be without Relay; the call of `install` makes them visible."""

import os
import random
import time

from celery import Celery, Task
from celery_progress.backend import ProgressRecorder
from relay_client.integrations.celery import install

app = Celery("pictures", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)

install(app, title=lambda arguments: f"Picture of {arguments['subject']}")


@app.task(bind=True, max_retries=3)
def draw(self: Task, subject: str, lines: int = 40, trouble: float = 0.2) -> None:
    """Draw a picture, line by line. Sometimes the ink runs out, and it is drawn again."""
    recorder = ProgressRecorder(self)
    recorder.set_progress(0, lines, description=f"Sketching {subject}")
    fails_at = random.randrange(lines) if random.random() < trouble else None
    for line in range(lines):
        time.sleep(0.1)
        if line == fails_at:
            raise self.retry(exc=RuntimeError("out of ink"), countdown=2)
        recorder.set_progress(line + 1, lines, description=f"Line {line + 1} of {lines}")
