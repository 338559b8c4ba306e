"""``make health-check``: does the relay live, may clients be sent to it, and what does it count.

Exit status 0 when /healthz and /readyz answer 200. ``--wait SECONDS`` tries again until then. Needs nothing but Python.
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

#: Counted since the relay started, or now; shown when /metrics is to be had, which it is not through nginx.
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
    """The status and the body; 0 and the reason when nobody answers."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT) as response:
            return response.status, response.read(1 << 20).decode(errors="replace")
    except HTTPError as error:
        with error:
            return error.code, error.read(1 << 20).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return 0, str(getattr(error, "reason", error))


def counts(exposition: str) -> dict[str, float]:
    """The sums, over their labels, of the metrics that are shown."""
    sums = dict.fromkeys(SHOWN, 0.0)
    for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", exposition, re.MULTILINE):
        if name in sums:
            sums[name] += float(value)
    return sums


def check(base: str) -> bool:
    """Ask once and tell."""
    print(base, flush=True)
    well = True
    for path in ("/healthz", "/readyz"):
        status, body = get(base + path)
        well = well and status == 200
        print(f"  {path}  {status or 'no answer'}  {body.strip()[:200]}")
    status, body = get(base + "/metrics")
    if status == 200:
        for name, value in counts(body).items():
            print(f"  {name}  {value:g}")
    return well


def main() -> int:
    """Returns the exit status."""
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
    print("Not well: docs/troubleshoot.md tells what to look at.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
