"""Whether the client of a request may write: the one place that the handlers of the HTTP API ask."""

from collections.abc import Sequence

from quart import request
from relay_wire.channels import TASK_PREFIX

from relay.core.channels import task_channel
from relay.core.errors import Forbidden
from relay.core.grants import EVERYTHING, Decision, Grant, Verb
from relay.server.admission import CLIENT_LIMIT
from relay.server.api_errors import Refused
from relay.server.local_requests import is_local
from relay.server.publish_access import Target
from relay.server.running_relay import RunningRelay


class LocalWritesOnly(Forbidden):
    """A relay that asks for no credentials is written to from its own machine only."""

    code = "local_only"
    message = (
        "without credentials this relay takes updates only from programs on its own machine; configure API keys or tokens, "
        "and send one: Authorization: Bearer ..."
    )


async def refusals(relay: RunningRelay, verb: Verb, targets: Sequence[Target]) -> tuple[Grant, list[Forbidden | None]]:
    """Return the client's grant, and why it may not write to some of the targets. Owners are read in one round trip.

    A task that does not exist belongs to whom the request names as its owner: that is how an owner creates it. Who makes a task
    the child of another needs the same verb for the parent.

    Args:
        relay: The relay.
        verb: PUBLISH or CANCEL.
        targets: What the client wants to write to.

    Raises:
        Unauthenticated, Unverified: The client's credentials do not hold, or cannot be checked now.
        Refused: The grant's subject has sent too much.
        LocalWritesOnly: The relay is configured to ask for none, and the client is not on its machine.
        BrokerError: The owners of tasks cannot be read.
    """
    grant = await relay.access.grant_of_request(request)
    if grant is EVERYTHING and not is_local(request.scope):
        raise LocalWritesOnly
    retry_after = relay.admission.limit_subject(grant, len(targets))
    if retry_after is not None:
        raise Refused(429, CLIENT_LIMIT, "too many updates with this key or token; send fewer", retry_after)
    channels = {channel for target in targets for channel in _channels(target)}
    decisions = {channel: grant.decide(verb, channel) for channel in channels}
    undecided = [channel for channel, decision in decisions.items() if decision is Decision.NEEDS_OWNER]
    owners: dict[str, frozenset[str] | None] = {}
    if undecided:
        read = await relay.tasks.owners([channel.removeprefix(TASK_PREFIX) for channel in undecided])
        owners = {TASK_PREFIX + task_id: owner for task_id, owner in read.items()}

    def is_allowed(channel: str, named: frozenset[str] | None) -> bool:
        decision = decisions[channel]
        if decision is Decision.NEEDS_OWNER:
            owner = owners.get(channel)
            decision = grant.decide(verb, channel, (named or frozenset()) if owner is None else owner)
        return decision is Decision.ALLOWED

    def refusal(target: Target) -> Forbidden | None:
        channel, *parent = _channels(target)
        allowed = is_allowed(channel, target.options.owner) and all(is_allowed(each, None) for each in parent)
        return None if allowed else Forbidden()

    return grant, [refusal(target) for target in targets]


async def require_write(relay: RunningRelay, verb: Verb, targets: Sequence[Target]) -> Grant:
    """Return the client's grant if it may write to all targets; raises Forbidden otherwise, and as `refusals`."""
    grant, reasons = await refusals(relay, verb, targets)
    for reason in reasons:
        if reason is not None:
            raise reason
    return grant


def _channels(target: Target) -> list[str]:
    parent = target.options.parent_id
    return [target.channel] if parent is None else [target.channel, task_channel(parent)]
