"""``make redis-logs``: show the log of the embedded Redis of a relay on this machine.

Exits with status 3 if there is none; the Makefile then asks Compose. Other Redis servers have their own log.
"""

import argparse
import shutil
import subprocess
import sys

from redis_place import read_place


def main() -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--follow", action="store_true", help="show new lines until Ctrl-C")
    parser.add_argument("--lines", type=int, default=100, help="number of lines, from the end")
    options = parser.parse_args()
    _, place = read_place()
    if place.log is None:
        print(f"{place} is not embedded in a relay on this machine: asking Compose.", file=sys.stderr)
        return 3
    print(f"Redis  {place}", file=sys.stderr)
    command = [shutil.which("tail") or "tail", f"--lines={options.lines}", str(place.log)]
    try:
        return subprocess.run(command + (["--follow"] if options.follow else []), check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
