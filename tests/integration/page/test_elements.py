"""`<relay-task>` in anybody's page, and the hooks in applications that are bundled from the packed package."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from relay_client import Publisher

from tests.conftest import StartRelay
from tests.deployment.pages import snippets
from tests.harness import RedisServer, RelayServer
from tests.http_server import RequestHandler, serving
from tests.integration.interop.conftest import NODE, install_packages
from tests.integration.interop.node_packages import CLIENT, install_packed_client
from tests.integration.page.conftest import address


@contextmanager
def served(files: dict[str, bytes], policy: str | None = None) -> Iterator[str]:
    """A web server of another origin than the relay's."""

    class Handler(RequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            kind = "text/javascript" if self.path.endswith(".js") else "text/html; charset=utf-8"
            headers = {} if policy is None else {"Content-Security-Policy": policy}
            self.answer(body or b"", kind, 404 if body is None else 200, headers)

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"


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
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { RelayClient } from "@trio-relay/client";
import { useConnection, useTask, useTasks } from "@trio-relay/client/react";
import { Workflow } from "./workflow.jsx";

const relay = new RelayClient(RELAY);
function App() {
  const [id, setId] = useState("t");
  const { data, status, connection } = useTask(relay, id);
  const { tasks } = useTasks(relay, { kind: "k" });
  const text = [id, status, data.progress, connection, tasks.length, useConnection(relay).status].join(" ");
  return <button onClick={() => setId("u")}>{text}</button>;
}
const root = document.body.appendChild(document.createElement("div"));
createRoot(root).render(<StrictMode><App /><Workflow id="p" /></StrictMode>);
"""

VUE = """
import { createApp, h, ref } from "vue";
import { RelayClient } from "@trio-relay/client";
import { useConnection, useFamily, useTask, useTasks } from "@trio-relay/client/vue";

const relay = new RelayClient(RELAY);
const App = {
  setup() {
    const id = ref("t");
    const task = useTask(relay, id);
    const list = useTasks(relay, { kind: "k" });
    const family = useFamily(relay, "p");
    const connection = useConnection(relay);
    return () => {
      const { data, status, connection: current } = task.value;
      const words = [id.value, status, data.progress, current, list.value.tasks.length, connection.value.status];
      const button = h("button", { onClick: () => (id.value = "u") }, words.join(" "));
      const bar = ({ title, progress }) => h("progress", { max: 100, value: progress, "aria-label": title });
      const { data: { title }, status: all, children } = family.value;
      return [button, h("h2", `${title}: ${all}`), h("ul", [...children.values()].map((child) => h("li", [bar(child)])))];
    };
  },
};
createApp(App).mount(document.body.appendChild(document.createElement("div")));
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application's project that has the package as npm would publish it, beside Vite, React and Vue."""
    directory = tmp_path_factory.mktemp("project")
    modules = install_packed_client(directory).parent.parent
    install_packages()
    for each in ("vite", "@vitejs"):
        (modules / each).symlink_to(NODE / "node_modules" / each)
    for each in ("react", "react-dom", "vue"):
        (modules / each).symlink_to(CLIENT / "node_modules" / each)
    return directory


def built_by_vite(project: Path, name: str, code: str, mode: str, relay: RelayServer) -> dict[str, bytes]:
    """What Vite makes of an application, by its paths on a web server."""
    directory = project / f"{name}-{mode}"
    directory.mkdir()
    (directory / "index.html").write_text(f'<!doctype html><body><script type="module" src="/{name}.jsx"></script>')
    (directory / f"{name}.jsx").write_text(code)
    if name == "react":
        [workflow] = [block.text for block in snippets("jsx") if block.page == "frontends.md"]
        assert '"/ws/tasks"' in workflow
        (directory / "workflow.jsx").write_text(workflow.replace('"/ws/tasks"', "RELAY"))
    imported, plugins = ('import react from "@vitejs/plugin-react";', "react()") if name == "react" else ("", "")
    define = f"{{ RELAY: '{json.dumps(address(relay))}' }}"
    (directory / "vite.config.js").write_text(f"{imported}export default {{ plugins: [{plugins}], define: {define} }};")
    vite = [
        "node",
        str(NODE / "node_modules" / "vite" / "bin" / "vite.js"),
        "build",
        "--mode",
        mode,
        "--logLevel",
        "warn",
    ]
    subprocess.run(vite, cwd=directory, check=True, timeout=120, env={**os.environ, "NODE_ENV": mode})
    built = directory / "dist"
    files = {f"/{path.relative_to(built)}": path.read_bytes() for path in built.rglob("*") if path.is_file()}
    return {"/": files.pop("/index.html"), **files}


@pytest.mark.parametrize(
    ("name", "code", "mode"),
    [
        ("react", REACT, "production"),
        ("react", REACT, "development"),  # where StrictMode mounts everything twice
        ("vue", VUE, "production"),
    ],
)
def test_hooks_in_an_application_that_vite_builds(
    name: str, code: str, mode: str, project: Path, shared_redis: RedisServer, share_relay: StartRelay, page: Page
) -> None:
    relay = share_relay()
    files = built_by_vite(project, name, code, mode, relay)
    with Publisher(shared_redis.url) as publisher, served(files) as url:
        publisher.publish_task_update("t", {"status": "in_progress", "progress": 40, "kind": "k"})
        page.goto(url)
        expect(page.locator("button")).to_have_text("t in_progress 40 live 1 live")
        publisher.publish_task_update("t", {"progress": 50})
        expect(page.locator("button")).to_have_text("t in_progress 50 live 1 live")
        publisher.publish_task_update("u", {"status": "completed", "progress": 100})
        page.locator("button").click()
        expect(page.locator("button")).to_have_text("u completed 100 complete 1 live")
        # The example of docs/frontends.md: a task and its children.
        publisher.publish_task_update("p", {"status": "in_progress", "title": "Film"})
        expect(page.locator("h2")).to_have_text("Film: in_progress")
        for step, progress in [("Cut", 10), ("Mix", 20), ("Cut", 30)]:
            data = {"title": step, "progress": progress, "status": "in_progress"}
            shared_redis.publish("task_updates", json.dumps({"task_id": step, "data": data, "parent_id": "p"}))
        expect(page.get_by_role("progressbar", name="Cut")).to_have_attribute("value", "30")
        expect(page.get_by_role("listitem")).to_have_count(2)
        expect(page.get_by_role("progressbar", name="Mix")).to_have_attribute("value", "20")
