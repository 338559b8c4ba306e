"""Django channels with channels-redis, under uvicorn, which is faster than daphne."""

from pathlib import Path

import msgspec

from benchmarks.feeds import Feed
from benchmarks.peers.base import Peer, run_with_redis
from benchmarks.peers.plain import uvicorn
from benchmarks.servers import Running, accepts
from benchmarks.wire import Form, Template, resp


class GroupSend(Feed):
    """What `group_send` of the pub/sub layer publishes."""

    def template(self, form: Form) -> Template:
        message = msgspec.msgpack.encode({"type": "task.update", "text": form.payload.decode()})
        return Template(resp("PUBLISH", f"asgi__group__{form.channel}", message))


class DjangoChannels(Peer):
    """Groups by channels-redis."""

    name = "django-channels"
    title = "Django channels under uvicorn"
    packages = ("django", "channels", "channels_redis", "uvicorn", "uvloop", "httptools", "websockets")

    def start(self, directory: Path) -> Running:
        return run_with_redis(
            self,
            directory,
            lambda port, _: [*uvicorn("benchmarks.peers.programs.django_app:app", port), "--lifespan", "off"],
            ready=lambda port, _: accepts(port),
            feed=GroupSend,
            environ=lambda _, valkey: {"BENCH_REDIS_URL": valkey.url},
        )
