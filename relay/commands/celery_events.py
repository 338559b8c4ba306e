"""`relay celery-events`: the tasks of a Celery app in which nothing is installed, from its event stream."""

import logging

from relay.core.errors import RelayError


def run(broker: str, redis_url: str | None) -> None:
    """Report on the tasks of a broker until Ctrl-C or SIGTERM. Raises RelayError where Celery is not installed."""
    try:
        from relay_client.integrations.celery.events import report_events
    except ModuleNotFoundError as error:
        raise RelayError(str(error)) from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        report_events(broker, {"publisher": redis_url} if redis_url else {})
    except ValueError as error:
        raise RelayError(str(error)) from None
