"""What a page in Chromium shows through an outage, compared with what was published.

    python -m tests.faults.page [--cut 30] [--frozen 300] [--killed 5]

The relay is killed, the network is cut, then everything stalls, then the browser freezes the tab; ten updates per second are
published all the time.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from relay_client import Publisher

from tests.faults.proxy import ProxyThread
from tests.harness import RedisServer, RelayServer, eventually

_FOLLOW = """async () => {
    const { RelayClient } = await import("/relay-client.js");
    window.seen = [];
    window.states = [];
    window.relay = new RelayClient("/ws/tasks");
    relay.task("t").onUpdate(({ type, data, state, isState }) => seen.push([type, data.n, state.n, isState]));
    relay.connection.subscribe(({ status }) => states.push(status));
}"""


class Steps:
    """Publishes ten updates per second until it is stopped."""

    def __init__(self, publisher: Publisher, last: int) -> None:
        self._publisher = publisher
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.last = last

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._publisher.publish_task_update("t", {"n": self.last + 1})
            self.last += 1

    def __enter__(self) -> "Steps":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _check(page: Page, last: int, what: str) -> bool:
    """Compare what was seen with what was published; print the result."""
    eventually(lambda: page.evaluate("seen.at(-1)?.[2]") == last)
    seen = page.evaluate("seen")
    updates = [number for kind, number, _, is_state in seen if kind == "task_update" and not is_state]
    states = [state for _, _, state, _ in seen if state is not None]
    jumps = sum(after != before + 1 for before, after in itertools.pairwise(updates))
    back = sum(after < before for before, after in itertools.pairwise(states))
    resets = sum(kind == "reset" for kind, *_ in seen)
    doubled = len(updates) - len(set(updates))
    faults = f"{jumps} lost or out of order, {doubled} doubled, {back} back, {resets} resets"
    print(f"{what}: {len(updates)} seen up to {last}, {faults}")
    print(f"  the connection: {' -> '.join(page.evaluate('states.splice(0, states.length - 1)'))}", flush=True)
    return not (jumps or back or resets or doubled)


def main() -> int:
    """Run, and return 0 if nothing was lost, doubled or went back."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.page", description=__doc__)
    parser.add_argument("--cut", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--frozen", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--killed", type=float, default=5.0, metavar="SECONDS")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        for part in ("redis", "relay"):
            (Path(name) / part).mkdir()
        with (
            RedisServer(Path(name) / "redis", "--save", "") as server,
            RelayServer(Path(name) / "relay", server.url, history_size=20_000) as relay,
            Publisher(server.url) as publisher,
        ):
            proxy = ProxyThread(relay.port)
            with proxy.running():
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = browser.new_page()
                page.goto(f"http://127.0.0.1:{proxy.proxy.port}/healthz")
                page.evaluate(_FOLLOW)
                last = -1
                outages: list[tuple[str, Callable[[], None]]] = [
                    (f"the relay was killed, and away for {options.killed:g} s", partial(_kill, relay, options.killed)),
                    (f"the network was cut for {options.cut:g} s", partial(proxy.cut, options.cut)),
                    (f"nothing went through for {options.cut:g} s", partial(proxy.stall, options.cut)),
                    (f"the tab was frozen for {options.frozen:g} s", partial(_freeze, page, options.frozen)),
                ]
                for what, outage in outages:
                    with Steps(publisher, last) as steps:
                        page.evaluate("seen.length = 0")
                        eventually(lambda: page.evaluate("seen.length") > 10)
                        outage()
                        time.sleep(1)
                    last = steps.last
                    good &= _check(page, last, what)
                browser.close()
    return 0 if good else 1


def _kill(relay: RelayServer, seconds: float) -> None:
    relay.kill()
    time.sleep(seconds)
    relay.start()


def _freeze(page: Page, seconds: float) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    time.sleep(seconds)
    session.send("Page.setWebLifecycleState", {"state": "active"})


if __name__ == "__main__":
    sys.exit(main())
