"""``make redis-logs``: the log of the Redis that a relay on this machine brought along.

Exit status 3 when there is none: then the Makefile asks Compose. Another Redis logs where its own operator wants it.
"""

import argparse
import shutil
import subprocess
import sys

from redis_place import find_redis

from relay.config import load
from relay.core.errors import ConfigError


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--lines", type=int, default=100, help="how many of the last lines")
    options = parser.parse_args()
    try:
        _, settings = load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    place = find_redis(settings)
    if place.log is None:
        print(f"{place} was not brought along by a relay on this machine: asking Compose.", file=sys.stderr)
        return 3
    print(f"Redis  {place}", file=sys.stderr)
    command = [shutil.which("tail") or "tail", f"--lines={options.lines}", str(place.log)]
    try:
        return subprocess.run(command + (["--follow"] if options.follow else []), check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
