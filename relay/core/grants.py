"""Grants: what a client may do. One pure function, `Grant.decide`, is asked by every way in.

`relay.core.grant_claims` reads grants from tokens and settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from relay_wire.channels import GENERAL, TASK_PREFIX

from relay.core.extra_channels import name_of
from relay.core.families import watched_task
from relay.core.topics import TOPIC_PREFIX, TOPICS, any_matches


class Verb(Enum):
    """What a client wants to do with a task or a channel.

    Each needs a scope of its own: who may watch a task may not list, publish or cancel it for that reason.
    """

    WATCH = "watch"  # read its state and history, and follow it
    LIST = "list"  # find it in a list
    PUBLISH = "publish"  # write to it; a heartbeat is a write
    CANCEL = "cancel"  # ask its worker to stop
    REVOKE = "revoke"  # end grants; only the scope of everything covers it


class Decision(Enum):
    """The answer to "may this client do that?"."""

    ALLOWED = auto()
    DENIED = auto()
    #: The task's owner decides: ask again with it.
    NEEDS_OWNER = auto()


@dataclass(frozen=True, slots=True)
class Scope:
    """The tasks and channels that one verb is granted for. An empty scope covers nothing.

    Attributes:
        everything: Every task, general updates and every extra channel.
        tasks: Ids of tasks.
        prefixes: Beginnings of task ids, none of them empty.
        owned: The tasks whose owner is the grant's subject or one of its groups.
        general: General updates.
        channels: Names of extra channels.
        channel_prefixes: Beginnings of names of extra channels, none of them empty.
        plain_channels: Extra channels whose names have no colon.
        topics: Selectors of topics, see `relay.core.topics`. They also cover the tasks and channels whose topics they match.
    """

    everything: bool = False
    tasks: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    owned: bool = False
    general: bool = False
    channels: frozenset[str] = frozenset()
    channel_prefixes: tuple[str, ...] = ()
    plain_channels: bool = False
    topics: frozenset[str] = frozenset()

    def covers_task(self, task_id: str) -> bool:
        """Whether the scope covers a task, independent of its owner."""
        if self.everything or task_id in self.tasks or task_id.startswith(self.prefixes):
            return True
        return bool(self.topics) and any_matches(self.topics, TASK_PREFIX + task_id)

    def covers_channel(self, channel: str) -> bool:
        """Whether the scope covers a channel that is not a task's, by its name within Relay."""
        if self.everything:
            return True
        if channel.startswith(TOPIC_PREFIX):
            return any_matches(self.topics, channel[len(TOPIC_PREFIX) :])
        if channel == GENERAL:
            return self.general or any_matches(self.topics, GENERAL)
        name = name_of(channel)
        if self.plain_channels and ":" not in name:
            return True
        return name in self.channels or name.startswith(self.channel_prefixes) or any_matches(self.topics, name)


#: The scope of a verb that is not granted.
NO_SCOPE = Scope()


class SharedBy(NamedTuple):
    """Whose grant a share link was made with. Revoking that grant, or that subject, revokes the link.

    Attributes:
        subject: The subject of that grant.
        token_id: Its id.
    """

    subject: str | None
    token_id: str | None


def _no_scopes() -> Mapping[Verb, Scope]:
    return MappingProxyType({})


# A struct is made in a tenth of the time of a frozen dataclass. The cyclic collector need not look at it: nothing in a grant
# refers back to one.
class Grant(msgspec.Struct, frozen=True, gc=False):
    """What one client may do, until when, and who it is.

    Attributes:
        scopes: What each verb is granted for; a verb that is missing is not granted.
        subject: The user or service, as its backend calls it.
        groups: The groups that the subject belongs to.
        issued_at: When the grant was made, in seconds of the Unix epoch, where that is known.
        expires_at: When the grant ends; None is never.
        token_id: The id by which this one grant can be revoked.
        shared_by: Who has made it, where it is that of a share link.
    """

    scopes: Mapping[Verb, Scope] = msgspec.field(default_factory=_no_scopes)
    subject: str | None = None
    groups: frozenset[str] = frozenset()
    issued_at: float | None = None
    expires_at: float | None = None
    token_id: str | None = None
    shared_by: SharedBy | None = None

    @property
    def identities(self) -> frozenset[str]:
        """The names under which this client can own tasks: its subject and its groups."""
        return self.groups if self.subject is None else self.groups | {self.subject}

    def scope(self, verb: Verb) -> Scope:
        """Return what a verb is granted for."""
        return self.scopes.get(verb, NO_SCOPE)

    def decide(self, verb: Verb, channel: str, owner: frozenset[str] | None = None) -> Decision:
        """Decide whether this client may do something with a channel.

        Args:
            verb: What it wants to do.
            channel: The channel's name within Relay, see `relay.core.channels`.
            owner: The users and groups that own the task; empty for a task without an owner or one that does not exist. None
                where that was not read yet: only then may the decision be NEEDS_OWNER.
        """
        scope = self.scope(verb)
        channel = watched_task(channel)
        if channel == TOPICS and verb is Verb.WATCH:
            return Decision.ALLOWED  # what is private in it is decided topic by topic
        if not channel.startswith(TASK_PREFIX):
            return Decision.ALLOWED if scope.covers_channel(channel) else Decision.DENIED
        if scope.covers_task(channel[len(TASK_PREFIX) :]):
            return Decision.ALLOWED
        identities = self.identities if scope.owned else None
        if not identities:
            return Decision.DENIED
        if owner is None:
            return Decision.NEEDS_OWNER
        return Decision.DENIED if identities.isdisjoint(owner) else Decision.ALLOWED


#: The grant of every client of a relay that is not configured to ask for one.
EVERYTHING = Grant(MappingProxyType({verb: Scope(everything=True) for verb in Verb}))

#: The grant of a client that has shown none, where none is configured for such.
NOTHING = Grant()


def with_scope(grant: Grant, verb: Verb, more: Scope) -> Grant:
    """Return a grant that covers a scope as well as its own."""
    scope = grant.scope(verb)
    joined = Scope(
        everything=scope.everything or more.everything,
        tasks=scope.tasks | more.tasks,
        prefixes=(*scope.prefixes, *more.prefixes),
        owned=scope.owned or more.owned,
        general=scope.general or more.general,
        channels=scope.channels | more.channels,
        channel_prefixes=(*scope.channel_prefixes, *more.channel_prefixes),
        plain_channels=scope.plain_channels or more.plain_channels,
        topics=scope.topics | more.topics,
    )
    return replace(grant, scopes=MappingProxyType({**grant.scopes, verb: joined}))
