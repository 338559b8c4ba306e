"""The one place that touches Hypercorn's internals: what Relay replaces in it, and what it reads of it.

Nothing happens on import. `install` replaces names in Hypercorn's modules, once, and only in a verified version:

    hypercorn.trio.run.trio                        its `serve_listeners` asks Relay first, for the apps that are registered here
    hypercorn.trio.run.raise_shutdown              looks at the ticks of all periodic work whether the worker is to end
    hypercorn.protocol.h11.WSStream, .h2.WSStream  read frames with Relay's reader, so that its limits hold on each transport
    hypercorn.protocol.H11Protocol                 does not change to HTTP/2 without TLS, unless the app allows it, and
                                                   refuses requests with thousands of headers
    hypercorn.protocol.H2Protocol                  ends a connection that floods it with control frames

`versions` has the versions, `chain` reads, the other modules replace.
"""

import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run

from relay.server.hypercorn_compat.http import BoundedH2Protocol, H11WithoutH2C
from relay.server.hypercorn_compat.listeners import WorkerTrio
from relay.server.hypercorn_compat.shutdown import raise_shutdown
from relay.server.hypercorn_compat.versions import is_verified
from relay.server.hypercorn_compat.websocket import RelayWSStream


def install() -> bool:
    """Put Relay's replacements into Hypercorn, once for the process.

    Returns:
        False in a Hypercorn that is not verified, which is left as it is.
    """
    if not is_verified():
        return False
    hypercorn.trio.run.trio = WorkerTrio()  # type: ignore[assignment, attr-defined]
    hypercorn.trio.run.raise_shutdown = raise_shutdown  # type: ignore[attr-defined]
    hypercorn.protocol.h11.WSStream = RelayWSStream  # type: ignore[attr-defined]
    hypercorn.protocol.h2.WSStream = RelayWSStream  # type: ignore[attr-defined]
    hypercorn.protocol.H11Protocol = H11WithoutH2C  # type: ignore[attr-defined]
    hypercorn.protocol.H2Protocol = BoundedH2Protocol  # type: ignore[attr-defined]
    return True
