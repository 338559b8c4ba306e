"""Requests to the HTTP API that publish what is malformed: kept with the address that they came from, for operators."""

from time import monotonic

from quart import request

from relay.server.running_relay import RelayHandle

#: Statuses of requests that are malformed, or whose update is one that is not taken.
MALFORMED = frozenset({400, 413, 422})


def record_malformed(relay: RelayHandle, status: int, code: str, message: str) -> None:
    """Count the request that is being served, if it publishes what is malformed.

    Args:
        relay: The relay.
        status: The status of the answer, or of a part of it.
        code: A short name of what is wrong.
        message: What is wrong.
    """
    if status not in MALFORMED or request.method != "POST":
        return
    current = relay.current
    if current is None:
        return
    scope = request.scope
    client = current.admission.proxies.client(scope.get("client"), scope["headers"])
    current.status.own.malformed.record(monotonic(), "HTTP API", code, message, client=client.host or "unknown")
