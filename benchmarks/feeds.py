"""How updates are published to a server: what one update is on the wire, and how it is acknowledged."""

from typing import Any, ClassVar

import redis
from relay_wire import keys, publications, scripts
from relay_wire.channels import GENERAL, GENERAL_UPDATE, TASK_PREFIX, TASK_UPDATE

from benchmarks.wire import Form, Template, resp

TASK_UPDATES, GENERAL_UPDATES = "task_updates", "general_updates"


class FeedFailed(Exception):
    """What was published was refused; has the answer."""


class Feed:
    """Commands for one server, and the count of its answers. Subclasses say how; one instance serves one connection."""

    #: What every answer has exactly once.
    answer_mark: ClassVar[bytes] = b"\r\n"
    #: What only refusals have.
    refusal_marks: ClassVar[tuple[bytes, ...]] = (b"-ERR", b"-NOSCRIPT", b"-OOM", b"-MISCONF")
    #: Said first on a connection.
    greeting: ClassVar[bytes] = b""
    #: Where single updates are not answered: what asks for an answer to all so far.
    flush: ClassVar[bytes] = b""

    def __init__(self, port: int) -> None:
        self.port = port
        self._tail = b""

    def prepare(self) -> None:
        """What the server must know before the first update. May wait for it."""

    def template(self, form: Form) -> Template:
        """The command that publishes an update of this form."""
        raise NotImplementedError

    def answers(self, data: bytes) -> int:
        """How many answers end in this piece of what the server says. Raises FeedFailed when one is a refusal."""
        text = self._tail + data
        if any(mark in text for mark in self.refusal_marks):
            raise FeedFailed(f"the update was refused: {text[:300].decode(errors='replace')}")
        self._tail = text[1 - len(self.answer_mark) :] if len(self.answer_mark) > 1 else b""
        return text.count(self.answer_mark)


class Plain(Feed):
    """PUBLISH on the channels that Relay takes from any service."""

    def template(self, form: Form) -> Template:
        return Template(resp("PUBLISH", GENERAL_UPDATES if form.task is None else TASK_UPDATES, form.payload))


class Channels(Feed):
    """PUBLISH on one Redis channel for each task, so that a peer need not look into the message."""

    def template(self, form: Form) -> Template:
        return Template(resp("PUBLISH", f"task:{form.channel}", form.payload))


class Durable(Feed):
    """Relay's own script, as the clients run it: numbered, kept and folded by Redis before it is published."""

    answer_mark = b"*4\r\n"

    def prepare(self) -> None:
        with redis.Redis(port=self.port) as client:
            client.script_load(scripts.load("publish").source)

    def template(self, form: Form) -> Template:
        kind, channel, fields = GENERAL_UPDATE, GENERAL, {}
        if form.task is not None:
            kind, channel = TASK_UPDATE, TASK_PREFIX + form.task
            fields = _fields(form.data)
        script, names, values = publications.publish_call(
            channel, kind, form.data, publications.Retention(), fields=fields
        )
        return Template(resp("EVALSHA", script.sha, len(names), *names, *values))


class Unrecorded(Feed):
    """What Relay's clients publish when Redis has no memory to record an update: live, and without a position."""

    def template(self, form: Form) -> Template:
        kind, channel = GENERAL_UPDATE, GENERAL
        if form.task is not None:
            kind, channel = TASK_UPDATE, TASK_PREFIX + form.task
        return Template(
            resp("PUBLISH", keys.pubsub_channel(channel), publications.unpersisted_message(kind, form.data))
        )


def _fields(data: bytes) -> dict[str, bytes]:
    """The fields of an update's data; all are strings, and none has a quote or a comma in it."""
    fields = {}
    for pair in data[1:-1].split(b","):
        name, _, value = pair.partition(b":")
        fields[name.strip(b'"').decode()] = value
    return fields


def feed_named(name: str, port: int, options: dict[str, Any]) -> Feed:
    """The feed of ``module:Class``, told so over a pipe."""
    module, _, attribute = name.partition(":")
    found = getattr(__import__(module, fromlist=[attribute]), attribute)
    feed = found(port, **options)
    assert isinstance(feed, Feed)
    return feed


def name_of(feed: type[Feed]) -> str:
    """The opposite of `feed_named`'s first argument."""
    return f"{feed.__module__}:{feed.__qualname__}"
