"""What a subscription of the Centrifuge protocol begins with: its position, and what the client missed."""

from typing import Any

from relay.core.client_channels import Namespace
from relay.core.recovery import SubscribeResult
from relay.protocols.centrifuge_commands import Codec, SubscribeRequest


def subscribe_result(
    request: SubscribeRequest, namespace: Namespace, result: SubscribeResult, codec: Codec, *, whole_values: bool
) -> dict[str, Any]:
    """Return the result of a subscribe.

    A client that recovers gets the offset that it has, and comes to that of the channel by the publications that follow: those
    of the answer, and where that would be too large further ones as pushes. To a client that does not, or cannot, a task's
    state is sent as one publication at the channel's offset.

    Args:
        request: What the client asked for.
        namespace: The channel's options.
        result: What the session found.
        codec: The client's format.
        whole_values: The client gets values instead of operations on fields.
    """
    position = result.position
    found: dict[str, Any] = {}
    if namespace.force_recovery or request.recoverable or request.recover:
        found |= {"recoverable": True, "positioned": True}
    elif request.positioned:
        found["positioned"] = True
    found |= {"epoch": position.epoch, "offset": position.offset}
    has_position = request.offset == position.offset and request.epoch in ("", position.epoch)
    updates = result.updates
    if request.recover:
        found["was_recovering"] = True
        if result.recovered or has_position:
            found["recovered"] = True
            found["offset"] = request.offset
            updates = updates if result.recovered else ()
        elif namespace.force_recovery_mode == "cache" and updates:
            found["recovered"] = True
    if updates:
        found["publications"] = codec.publications(updates, whole_values=whole_values)
    return found
