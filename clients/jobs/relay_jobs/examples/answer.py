"""A text that grows on a page, with a button that stops it: what an application with a language model needs of Relay.

    python -m relay_jobs.examples.answer [--port N] [--pause SECONDS]

It starts a relay with its Redis, and an application: a page, and a worker that writes an answer piece by piece. Reload the page
while the text grows, open it in a second tab, or press Stop. It needs `trio-relay[embedded]` and runs until Ctrl-C or SIGTERM.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio
from relay_client import TaskCancelled, environment
from relay_client import http as relay_http
from relay_client.trio import TaskReporter

from relay_jobs.examples.demo import start_relay
from relay_jobs.examples.processes import DemoError, Process, free_port

#: Words of an answer.
_WORDS = 200


async def generated(question: str, pause: float) -> AsyncGenerator[str, None]:
    """Yield an answer piece by piece, as the client of a language model does. In its place this one counts words."""
    yield f"You asked: {question}\n"
    for number in range(1, _WORDS + 1):
        await trio.sleep(pause)
        yield f" word {number}{'.' if number == _WORDS else ','}"


class Answers:
    """The worker: writes answers, each in a task of its own.

    Args:
        reporter: Reports what is written, and receives requests to stop.
        pause: Seconds between two pieces.
    """

    def __init__(self, reporter: TaskReporter, pause: float) -> None:
        self._reporter = reporter
        self._pause = pause
        self.running: set[str] = set()

    async def write(self, task_id: str, question: str) -> None:
        """Write one answer, until it is complete or somebody stops it."""
        self.running.add(task_id)
        try:
            with suppress(TaskCancelled):
                async with (
                    self._reporter(task_id, title=question, kind="answer") as task,
                    aclosing(generated(question, self._pause)) as pieces,
                ):
                    async for piece in pieces:
                        task.append("text", piece)
        finally:
            self.running.discard(task_id)


def application(answers: Answers, nursery: trio.Nursery, relay_url: str) -> QuartTrio:
    """Return the application: its page, and what the page asks it for.

    The page follows the text at the relay. Everything else it asks the application for, which knows its users.
    """
    app = QuartTrio(__name__)
    page = files("relay_jobs.examples").joinpath("answer.html").read_text("utf-8")

    @app.get("/")
    async def show_page() -> Response:
        return Response(page.replace("RELAY_URL", relay_url), content_type="text/html; charset=utf-8")

    @app.post("/answers")
    async def ask() -> Any:
        question = str(json.loads(await request.get_data())["question"])[:200]
        task_id = f"answer-{token_hex(4)}"
        nursery.start_soon(answers.write, task_id, question)
        return {"task_id": task_id}, 202

    @app.post("/answers/<task_id>/stop")
    async def stop(task_id: str) -> Any:
        def cancel() -> bool:
            with relay_http.Publisher(relay_url) as publisher:
                return publisher.cancel(task_id, "stopped on the page")

        return {"was_running": await trio.to_thread.run_sync(cancel)}

    @app.get("/answers")
    async def running() -> Any:
        return {"running": sorted(answers.running)}

    return app


async def _run(relay_url: str, redis_url: str, port: int, pause: float) -> None:
    stopped = trio.Event()

    async def watch_signals(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                stopped.set()

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    async with TaskReporter(redis_url, cancellable=True) as reporter, trio.open_nursery() as nursery:
        await nursery.start(watch_signals)
        app = application(Answers(reporter, pause), nursery, relay_url)
        await nursery.start(partial(serve, app, config, shutdown_trigger=stopped.wait))
        print(f"answer: open http://127.0.0.1:{port}/ in a browser   Ctrl-C ends it", file=sys.stderr, flush=True)
        await stopped.wait()
        nursery.cancel_scope.cancel()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(prog="python -m relay_jobs.examples.answer", description="A text that grows.")
    parser.add_argument("--port", type=int, default=8010, help="of the page")
    parser.add_argument("--pause", type=float, default=0.1, metavar="SECONDS", help="between two pieces")
    options = parser.parse_args(arguments)
    environ = dict(os.environ)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-answer-")))

        def started(child: Process) -> Process:
            stack.callback(child.stop)
            return child

        try:
            url, redis_url = start_relay(directory, environ, started)
            if environ.get("REDIS_URL") or environ.get("REDIS_HOST"):
                redis_url = environment.redis_url(environ)
            relay_url = url.replace("ws", "http", 1).removesuffix("/ws/tasks")
            trio.run(_run, relay_url, redis_url, free_port(options.port), options.pause)
        except DemoError as error:
            raise SystemExit(f"answer: {error}") from None


if __name__ == "__main__":
    main()
