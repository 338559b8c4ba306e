"""The metrics about Redis: its subscription, what came through it, and what the servers use. Kept current at intervals.

A scrape shows the last look and waits for nothing.
"""

import structlog

from relay.broker.channel_subscriptions import ChannelSubscriptions
from relay.broker.service import RedisBroker
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.hub import Hub
from relay.metrics import Metrics
from relay.server.plain_publishes import PlainPublishReceiver
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.redis")

#: Seconds between two looks at the Redis connection.
_CONNECTION_SECONDS = 1.0

#: Looks at the connection for each question to Redis about its usage.
_CHECKS_PER_READ = 10


async def report_connection(
    redis: RedisBroker, channels: ChannelSubscriptions, plain: PlainPublishReceiver, hub: Hub, metrics: Metrics
) -> None:
    """Keep the metrics of the Redis connection current, until cancelled."""
    reconnects = resets = messages = plain_messages = output_buffer_disconnects = 0
    while True:
        metrics.redis_up.set(redis.alive)
        metrics.redis_probe_age.set(redis.probe_age)
        metrics.redis_reconnects.inc(redis.reconnects - reconnects)
        reconnects = redis.reconnects
        metrics.redis_output_buffer_disconnects.inc(redis.output_buffer_disconnects - output_buffer_disconnects)
        output_buffer_disconnects = redis.output_buffer_disconnects
        metrics.history_resets.inc(hub.resets - resets)
        resets = hub.resets
        metrics.updates_received.labels("persisted").inc(channels.messages - messages)
        messages = channels.messages
        metrics.updates_received.labels("plain").inc(plain.received - plain_messages)
        plain_messages = plain.received
        await sleep_until_tick(_CONNECTION_SECONDS)


async def report_usage(redis: RedisBroker, metrics: Metrics) -> None:
    """Keep the metrics of what Redis uses current, until cancelled. They are absent while Redis is away."""
    is_refused = False
    while True:
        usage = {}
        if redis.alive:
            try:
                usage = await redis.read_usage()  # within the deadline of a call
            except BrokerError as error:
                if isinstance(error, BrokerRefused) and not is_refused:
                    is_refused = True
                    _log.warning("redis usage cannot be read: its metrics are missing", error=str(error))
        metrics.set_redis_usage(usage)
        for _ in range(_CHECKS_PER_READ if usage else 1):
            await sleep_until_tick(_CONNECTION_SECONDS)
            if not redis.alive:
                break
