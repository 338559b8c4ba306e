"""The image's HEALTHCHECK: exits with status 0 if the relay in this container answers ``/healthz`` within 2 s.

Pass a path to request another one: ``healthcheck.py /readyz``.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT = 2.0

#: The address on which to reach a relay that listens on all addresses.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def main(path: str = "/healthz") -> int:
    """Send one request. Return the exit status, and print errors to stderr."""
    host, port = os.environ.get("RELAY_HOST", "127.0.0.1"), int(os.environ.get("RELAY_PORT", "8000"))
    connection = HTTPConnection(LOOPBACK.get(host, host), port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(1000).decode(errors="replace")
    except (OSError, HTTPException) as error:
        print(f"no answer from {host}:{port}{path}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if response.status != 200:
        print(f"{path} answers {response.status}: {body}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
