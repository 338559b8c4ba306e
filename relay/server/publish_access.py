"""What a publication writes to, and the owner's right to it: checked before the write, and again by Redis at its moment."""

from typing import NamedTuple

from relay_wire.channels import GENERAL
from relay_wire.creation import NO_OPTIONS, CreationOptions

from relay.broker.client_publishes import Publication, Published
from relay.broker.script_calls import announced_task
from relay.core.channels import task_channel
from relay.core.errors import BadMessage, Forbidden, RelayError, UpdateConflict
from relay.core.grants import Decision, Grant, Verb


class Target(NamedTuple):
    """What a client wants to write to.

    Attributes:
        channel: Relay's channel name.
        options: The owner and the parent that it gives the task.
    """

    channel: str
    options: CreationOptions = NO_OPTIONS


def targets_of(publication: Publication) -> list[Target]:
    """Return what a publication writes to: its channel, and the task that it announces."""
    return [_target(publication), *_announced(publication)]


def _target(publication: Publication) -> Target:
    # The options of an announcement are those of the task that it announces.
    return Target(publication.channel, NO_OPTIONS if publication.channel == GENERAL else publication.options)


def _announced(publication: Publication) -> list[Target]:
    """Return the task that an announcement creates."""
    if publication.channel != GENERAL:
        return []
    try:
        announced = announced_task(publication.data)
    except BadMessage:
        return []  # it is refused when it is published
    return [] if announced is None else [Target(task_channel(announced[0]), publication.options)]


def for_writer(publication: Publication, grant: Grant) -> Publication:
    """Have Redis check the owner again, at the moment of the write, where the client may write by owning the task.

    Two clients may create the same task at once: then it is the one's, and the other is refused.
    """
    targets = targets_of(publication)
    if all(grant.decide(Verb.PUBLISH, target.channel) is not Decision.NEEDS_OWNER for target in targets):
        return publication
    return publication._replace(options=publication.options._replace(writers=grant.identities))


def outcome_of(outcome: Published | RelayError) -> Published | RelayError:
    """Return what became of a publication of `for_writer`, with Forbidden where the task is another's."""
    is_foreign = isinstance(outcome, UpdateConflict) and outcome.code == Forbidden.code
    return Forbidden() if is_foreign else outcome
