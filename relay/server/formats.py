"""The formats of sessions: one instance for all clients that share an encoding and a framing."""

from functools import cache

from relay.core.batches import Encoding, Format, Framing
from relay.protocols.tasks import PLAIN

#: Encodes what is sent to one client alone and carries no update.
REPLY_ENCODING = PLAIN


@cache
def format_of(encoding: Encoding, framing: Framing) -> Format:
    """Return the one format of a shared encoding in a framing."""
    return Format(encoding, framing)
