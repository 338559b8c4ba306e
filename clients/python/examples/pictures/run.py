"""Start the example: a relay with its Redis, a Celery worker and the web server. Ctrl-C ends all of them.

python clients/python/examples/pictures/run.py [--port 8001] [--relay-port 8000]
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: Seconds for a server to start, and for a process to end.
START, END = 60.0, 15.0


def start(stack: ExitStack, log: Path, environ: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Python module as a process that ends with the stack."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environ,
            cwd=HERE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it is ended here, also by Ctrl-C
        )
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and wait for it."""
    process.terminate()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers. Raises RuntimeError if it does not."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text()}")


def redis_of(log: Path) -> str:
    """Return the URL of the relay's Redis, which its banner names."""
    found = re.search(r"^ +Redis +(\S+)", log.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the relay has not said where its Redis is:\n{log.read_text()}")
    return found[1]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8001, help="of the page")
    parser.add_argument("--relay-port", type=int, default=8000, help="of the relay")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    relay_url, page_url = f"http://127.0.0.1:{options.relay_port}", f"http://127.0.0.1:{options.port}"
    environ = {**os.environ, "PUBLIC_RELAY_URL": relay_url.replace("http", "ws", 1)}
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pictures-")))
        relay_log, web_log = logs / "relay.log", logs / "web.log"
        relay = start(stack, relay_log, environ, "relay.cli", "serve", "--port", str(options.relay_port))
        wait_for(f"{relay_url}/readyz", relay, relay_log)
        environ.setdefault("REDIS_URL", redis_of(relay_log))
        worker = start(stack, logs / "worker.log", environ, "celery", "-A", "tasks", "worker", "--concurrency=2")
        web = start(stack, web_log, environ, "uvicorn", "web:app", "--port", str(options.port))
        wait_for(page_url, web, web_log)
        print(f"The page: {page_url}   relay: {relay_url}   logs: {logs}   Ctrl-C ends it", flush=True)
        while all(process.poll() is None for process in (relay, worker, web)):
            time.sleep(0.2)
        raise RuntimeError(
            "one of the processes has ended:\n" + "\n".join(log.read_text()[-2000:] for log in logs.iterdir())
        )


if __name__ == "__main__":
    main()
