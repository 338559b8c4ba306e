"""W3C Trace Context: the text of the header ``traceparent``, which names the trace and the span that something is a part of.

Only sampled contexts are passed on: without one there is nothing to trace, and nothing to carry.
"""

import re

#: The type of the messages, to relays and to clients, that carry the trace context of the update that follows.
TRACE = "trace"

#: The name of the header, and of the member beside ``data`` in what services publish.
TRACEPARENT = "traceparent"

# W3C Trace Context, section 3.2: of a version to come, only the parts of version 00 are read.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def sampled(traceparent: str) -> str | None:
    """Return a trace context in the form that is passed on; None if it is not sampled, or none at all.

    Args:
        traceparent: What somebody has sent as one.
    """
    # Nearly every text that is one has this length, so what is no context is not searched through.
    found = _TRACEPARENT.fullmatch(traceparent.strip()) if 55 <= len(traceparent) <= 256 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if (version == "00" and rest) or not int(flags, 16) & 1:
        return None
    return f"00-{trace_id}-{span_id}-{int(flags, 16) & 3:02x}"
