"""A process that enqueues: `python -m ...produce MODULE` reads lines `KIND TOKEN`, and answers each with the job's id.

`stop ID` stops a job by the queue's own means.
"""

import sys
from importlib import import_module

if __name__ == "__main__":
    app = import_module(f"tests.integration.client.integrations.apps.{sys.argv[1]}")
    print("ready", flush=True)
    for line in sys.stdin:
        kind, token = line.split()
        print(app.stop(token) if kind == "stop" else app.enqueue(kind, token), flush=True)
