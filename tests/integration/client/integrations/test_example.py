"""The example with Celery, FastAPI and a page: one command starts it, and a picture is drawn."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.harness import ROOT, eventually
from tests.ports import free_port

RUN = ROOT / "clients" / "python" / "examples" / "pictures" / "run.py"


def ask(url: str, method: str = "GET") -> Any:
    request = urllib.request.Request(url, method=method, headers={"Origin": "http://elsewhere.example"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        body = answer.read()
        return json.loads(body) if answer.headers.get_content_type() == "application/json" else (answer.headers, body)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    port, relay_port = free_port(), free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    with (tmp_path / "log").open("ab") as log:
        example = subprocess.Popen(
            [sys.executable, str(RUN), "--port", str(port), "--relay-port", str(relay_port)],
            env={**environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=tmp_path,
        )
    assert example.stdout is not None
    try:
        line = example.stdout.readline()
        assert "The page" in line, (tmp_path / "log").read_text()
        page, relay = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{relay_port}"
        assert b"page.js" in ask(page)[1]
        headers, script = ask(f"{relay}/relay-client.js")
        assert b"RelayClient" in script
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert ask(f"{page}/settings")["relay"] == relay.replace("http", "ws")
        task_id = ask(f"{page}/pictures?subject=a+lighthouse&lines=3&trouble=0", "POST")["task_id"]
        found = eventually(lambda: ended(f"{relay}/api/tasks/{task_id}"))
        assert (found["status"], found["title"], found["progress"]) == ("completed", "Picture of a lighthouse", 100)
        assert (found["done"], found["total"]) == (3, 3)
    finally:
        example.send_signal(signal.SIGTERM)
        assert example.wait(60) == 0
        example.stdout.close()


def ended(url: str) -> dict[str, Any]:
    """The fields of a task that has ended; of any other none."""
    try:
        fields: dict[str, Any] = ask(url)["data"]
    except urllib.error.HTTPError as error:
        error.close()
        return {}
    return fields if fields.get("completed_at") else {}
