"""`<relay-task>` in anybody's page, and the hooks in applications that are bundled from the packed package."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from relay_client import Publisher

from tests.conftest import StartRelay
from tests.harness import RedisServer
from tests.integration.interop.node_packages import CLIENT, install_packed_client
from tests.integration.page.conftest import address


@contextmanager
def served(files: dict[str, bytes], policy: str | None = None) -> Iterator[str]:
    """A web server of another origin than the relay's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            kind = "text/javascript" if self.path.endswith(".js") else "text/html; charset=utf-8"
            self.send_header("Content-Type", kind)
            if policy is not None:
                self.send_header("Content-Security-Policy", policy)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_two_lines_show_a_live_bar(shared_redis: RedisServer, share_relay: StartRelay, page: Page) -> None:
    relay = share_relay()
    two_lines = f"""<script type="module" src="{address(relay, "/relay.js")}"></script>
<relay-task task="demo"></relay-task>"""
    origin = address(relay, "")
    policy = f"default-src 'none'; script-src {origin}; connect-src {origin} {origin.replace('http', 'ws')}"
    with Publisher(shared_redis.url) as publisher, served({"/": two_lines.encode()}, policy) as url:
        publisher.publish_task_update("demo", {"title": "Render", "status": "in_progress", "progress": 40})
        page.goto(url)
        bar = page.get_by_role("progressbar", name="Render")
        expect(bar).to_have_attribute("aria-valuenow", "40")
        publisher.publish_task_update("demo", {"progress": 75, "message": "Step 3 of 4"})
        expect(bar).to_have_attribute("aria-valuetext", "75 %, in progress, Step 3 of 4")
        publisher.publish_task_update("demo", {"status": "completed", "progress": 100})
        expect(page.get_by_role("status")).to_have_text("Render: completed")


def test_an_element_changes_with_its_attributes_and_tells_of_what_happens(
    shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay()
    with Publisher(shared_redis.url) as publisher:
        for number in range(3):
            publisher.publish_task_update(f"t{number}", {"title": f"Task {number}", "status": "in_progress"})
        page.goto(address(relay, "/healthz"))
        page.evaluate("""async () => {
            await import("/relay.js");
            window.told = [];
            for (const type of ["relay-status", "relay-update", "relay-connection"]) {
                document.addEventListener(type, ({ detail }) => told.push([type, detail.status ?? detail.connection]));
            }
            document.body.innerHTML = '<relay-task task="t0"></relay-task><relay-tasks limit="2"></relay-tasks>';
        }""")
        one, several = page.locator("relay-task[task=t0]").first, page.locator("relay-tasks")
        expect(one).to_contain_text("Task 0")
        expect(several.get_by_role("listitem")).to_have_count(2)
        page.evaluate("document.querySelector('relay-task').task = 't1'")
        expect(page.locator("relay-task").first).to_contain_text("Task 1")
        publisher.publish_task_update("t1", {"status": "failed", "error": "disk full"})
        expect(page.locator("relay-task").first).to_contain_text("disk full")
        told = page.evaluate("told")
        assert ["relay-connection", "live"] in told
        assert ["relay-status", "failed"] in told
        assert ["relay-update", "in_progress"] in told


REACT = """
import { StrictMode, createElement, useState } from "react";
import { createRoot } from "react-dom/client";
import { RelayClient } from "@trio-relay/client";
import { useConnection, useTask, useTasks } from "@trio-relay/client/react";

const relay = new RelayClient(RELAY);
function App() {
  const [id, setId] = useState("t");
  const { data, status, connection } = useTask(relay, id);
  const { tasks } = useTasks(relay, { kind: "k" });
  const text = [id, status, data.progress, connection, tasks.length, useConnection(relay).status].join(" ");
  return createElement("button", { onClick: () => setId("u") }, text);
}
const root = document.body.appendChild(document.createElement("div"));
createRoot(root).render(createElement(StrictMode, null, createElement(App)));
"""

VUE = """
import { createApp, h, ref } from "vue";
import { RelayClient } from "@trio-relay/client";
import { useConnection, useTask, useTasks } from "@trio-relay/client/vue";

const relay = new RelayClient(RELAY);
const App = {
  setup() {
    const id = ref("t");
    const task = useTask(relay, id);
    const list = useTasks(relay, { kind: "k" });
    const connection = useConnection(relay);
    return () => {
      const { data, status, connection: current } = task.value;
      const words = [id.value, status, data.progress, current, list.value.tasks.length, connection.value.status];
      return h("button", { onClick: () => (id.value = "u") }, words.join(" "));
    };
  },
};
createApp(App).mount(document.body.appendChild(document.createElement("div")));
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application's project that has the package as npm would publish it, beside React and Vue."""
    directory = tmp_path_factory.mktemp("project")
    modules = install_packed_client(directory).parent.parent
    for each in (CLIENT / "node_modules").iterdir():
        if not each.name.startswith("."):
            (modules / each.name).symlink_to(each)
    return directory


@pytest.mark.parametrize(("name", "code"), [("react", REACT), ("vue", VUE)])
def test_hooks_in_a_bundled_application(
    name: str, code: str, project: Path, shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay()
    (project / f"{name}.js").write_text(code)
    bundle = [
        "node_modules/esbuild/bin/esbuild",
        f"{name}.js",
        "--bundle",
        "--format=esm",
        f"--outfile={name}.bundle.js",
    ]
    define = [
        f'--define:RELAY="{address(relay)}"',
        '--define:process.env.NODE_ENV="development"',
        "--log-level=warning",
    ]
    subprocess.run([*bundle, *define], cwd=project, check=True, timeout=60)
    files = {"/": b'<!doctype html><body><script type="module" src="/app.js"></script>'}
    files["/app.js"] = (project / f"{name}.bundle.js").read_bytes()
    with Publisher(shared_redis.url) as publisher, served(files) as url:
        publisher.publish_task_update("t", {"status": "in_progress", "progress": 40, "kind": "k"})
        page.goto(url)
        expect(page.locator("button")).to_have_text("t in_progress 40 live 1 live")
        publisher.publish_task_update("t", {"progress": 50})
        expect(page.locator("button")).to_have_text("t in_progress 50 live 1 live")
        publisher.publish_task_update("u", {"status": "completed", "progress": 100})
        page.locator("button").click()
        expect(page.locator("button")).to_have_text("u completed 100 complete 1 live")
