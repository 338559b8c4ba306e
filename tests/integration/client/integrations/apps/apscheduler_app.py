"""An application on APScheduler, which runs its jobs itself."""

from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler
from relay_client.integrations.apscheduler import install

from tests.integration.client.integrations.apps import options, work

scheduler = BackgroundScheduler(timezone=UTC)
install(scheduler, title=options.title, owner=options.owner)
scheduler.start()


def story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


def enqueue(kind: str, token: str) -> str:
    run_date = datetime.now(UTC)
    job = scheduler.add_job(story, "date", [kind, token, work.SECRET], run_date=run_date)
    return f"{job.id}@{run_date.isoformat()}"
