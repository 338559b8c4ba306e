"""An application on Dramatiq."""

import os

import dramatiq
from relay_client.integrations.dramatiq import install

from tests.integration.client.integrations.apps import options, work

broker: dramatiq.Broker
if os.environ["BROKER_URL"].startswith("amqp"):
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=os.environ["BROKER_URL"])
else:
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=os.environ["BROKER_URL"])
dramatiq.set_broker(broker)
install(broker, title=options.title, owner=options.owner)


@dramatiq.actor(max_retries=0)
def story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


@dramatiq.actor(max_retries=3, min_backoff=50, max_backoff=50)
def flaky_story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


def enqueue(kind: str, token: str) -> str:
    actor = flaky_story if kind == "flaky" else story
    return str(actor.send(kind, token, secret=work.SECRET).message_id)
