"""``make health-check``: show whether the relay is alive and ready, and its main metrics.

Exits with status 0 if /healthz and /readyz return 200. ``--wait SECONDS`` retries until they do. Needs only Python.
"""

import argparse
import re
import sys
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from relay_place import relay_url

TIMEOUT = 5.0

#: The metrics to show. They are only available when the relay is asked directly: nginx does not pass /metrics on.
SHOWN = (
    "relay_redis_up",
    "relay_redis_reconnects_total",
    "relay_connections",
    "relay_subscriptions",
    "relay_updates_received_total",
    "relay_messages_sent_total",
    "relay_connections_dropped_total",
    "relay_updates_invalid_total",
    "relay_updates_unpersisted_total",
)


def get(url: str) -> tuple[int, str]:
    """Return the status and the body, or 0 and the reason if there is no answer."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT) as response:
            return response.status, response.read(1 << 20).decode(errors="replace")
    except HTTPError as error:
        with error:
            return error.code, error.read(1 << 20).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return 0, str(getattr(error, "reason", error))


def counts(exposition: str) -> dict[str, float]:
    """Return the metrics to show, each summed over its labels."""
    sums = dict.fromkeys(SHOWN, 0.0)
    for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", exposition, re.MULTILINE):
        if name in sums:
            sums[name] += float(value)
    return sums


def check(base: str) -> bool:
    """Check once and print the result. Return whether the relay is alive and ready."""
    print(base, flush=True)
    is_healthy = True
    for path in ("/healthz", "/readyz"):
        status, body = get(base + path)
        is_healthy = is_healthy and status == 200
        print(f"  {path}  {status or 'no answer'}  {body.strip()[:200]}")
    status, body = get(base + "/metrics")
    if status == 200:
        for name, value in counts(body).items():
            print(f"  {name}  {value:g}")
    return is_healthy


def main() -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS")
    wait = parser.parse_args().wait
    try:
        base = relay_url("http")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    deadline = time.monotonic() + wait
    while get(base + "/readyz")[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    if check(base):
        return 0
    print("The relay is not healthy: see docs/troubleshoot.md.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
