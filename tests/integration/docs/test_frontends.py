"""The pages of docs/frontends.md: shown by a browser, type-checked, and served through Vite."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.deployment.pages import snippets
from tests.harness import PATIENCE, Client, RedisServer, eventually
from tests.integration.interop.browser import chromium, page_server
from tests.integration.interop.conftest import NODE, install_packages
from tests.integration.interop.node_packages import CLIENT, compile_client
from tests.ports import free_port

#: Has a page report its texts whenever they change.
REPORTER = """
<script>
  let told = Promise.resolve();
  const tell = () => {
    const report = { text: document.getElementById("text").textContent, value: document.getElementById("bar").value };
    told = told.then(() => fetch("/report", { method: "POST", body: JSON.stringify(report) }));
  };
  new MutationObserver(tell).observe(document, { attributes: true, childList: true, subtree: true });
  tell();
</script>
"""


def snippet(language: str) -> str:
    """The page's only block of a language."""
    [found] = [block.text for block in snippets(language) if block.page == "frontends.md"]
    return found


def test_the_page_without_packages(shared_redis: RedisServer, share_relay: StartRelay, tmp_path: Path) -> None:
    relay = share_relay()
    page = tmp_path / "page.html"
    address = "ws://127.0.0.1:8000/ws/tasks"
    assert address in snippet("html")
    page.write_text("<!doctype html>" + snippet("html").replace(address, relay.url) + REPORTER)
    with page_server(page) as (url, report), chromium(tmp_path, f"{url}?"):
        seen = [report()]
        assert seen == [{"text": "waiting", "value": 0}]
        eventually(lambda: relay.metric("relay_subscriptions") >= 2)
        shared_redis.publish_task("demo", progress=40)
        shared_redis.publish_task("demo", status="in_progress")
        shared_redis.publish_task("demo", message="Rendering", progress=60)
        shared_redis.publish_task("demo", status="failed", error="no paint")
        while seen[-1]["text"] != "no paint":
            seen.append(report())
    texts = [each["text"] for each in seen]
    assert [text for index, text in enumerate(texts) if text not in texts[:index]] == [
        "waiting",
        "in_progress",
        "Rendering",
        "no paint",
    ]
    assert seen[-1]["value"] == 60


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the packages that the tests use."""
    install_packages()
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    return tmp_path


def test_the_react_component_is_well_typed(project: Path) -> None:
    compile_client()
    types = CLIENT / json.loads((CLIENT / "package.json").read_text())["types"]
    options = {
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "skipLibCheck": True,
        "jsx": "react-jsx",
        "lib": ["es2022", "dom"],
        "types": ["react"],
        "paths": {"@trio-relay/client": [str(types)]},
    }
    (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["page.tsx"]}))
    (project / "page.tsx").write_text(snippet("tsx"))
    compiler = NODE / "node_modules" / "typescript" / "bin" / "tsc"
    checked = subprocess.run(["node", str(compiler)], cwd=project, capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stdout


@contextmanager
def vite(project: Path) -> Iterator[int]:
    """Vite's development server, with the configuration that the project has; its port."""
    port = free_port()
    program = NODE / "node_modules" / "vite" / "bin" / "vite.js"
    command = ["node", str(program), "--host", "127.0.0.1", "--port", str(port), "--strictPort"]
    with (project / "vite.log").open("wb") as log:
        child = start_child(command, cwd=project, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: b"ready in" in (project / "vite.log").read_bytes())
        yield port
    finally:
        child.kill()
        child.wait()


def test_vite_passes_on_what_is_relays(shared_redis: RedisServer, share_relay: StartRelay, project: Path) -> None:
    relay = share_relay()
    target = "http://127.0.0.1:8000"
    assert target in snippet("js")
    (project / "index.html").write_text("the page")
    (project / "vite.config.js").write_text(snippet("js").replace(target, f"http://127.0.0.1:{relay.port}"))
    with vite(project) as port, connect(f"ws://127.0.0.1:{port}/ws/tasks", open_timeout=PATIENCE) as connection:
        client = Client(connection)
        client.subscribe("demo")
        shared_redis.publish_task("demo", progress=40)
        assert client.receive()["data"] == {"progress": 40}
        address = f"http://127.0.0.1:{port}"
        assert "the page" in httpx.get(address).text
        assert httpx.get(f"{address}/api/tasks/demo").json()["data"] == {"progress": 40}
        with httpx.stream("GET", f"{address}/events?task=demo", timeout=PATIENCE) as events:
            assert any("event: task_update" in line for line in events.iter_lines())
