"""Publishers and their processes: signals, forks, exits, and event loops that follow each other."""

import asyncio
import multiprocessing
import os
import subprocess
import sys

import pytest
import relay_client
import relay_client.aio
import relay_client.trio
import trio
from relay_client import Publisher

from tests.harness import RedisServer
from tests.integration.client.reading import log_of, state_of

SIGNALS = """
import os, random, signal, sys, threading, time
from relay_client import Publisher

class Limit(Exception):
    pass

def on_alarm(*_):
    raise Limit

def on_user(*_):
    publisher.publish_task_update("handler", {"n": 1})  # within whatever the program is at

signal.signal(signal.SIGALRM, on_alarm)
publisher = Publisher(sys.argv[1], deadline=5)
end = time.monotonic() + 3
count = 0
while time.monotonic() < end:
    count += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.004))
        while True:
            publisher.publish_task_update("t", {"n": count})
    except Limit:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGUSR1, on_user)
stop = threading.Event()
def disturb():
    while not stop.wait(0.002):
        os.kill(os.getpid(), signal.SIGUSR1)
thread = threading.Thread(target=disturb)
thread.start()
for number in range(300):
    publisher.publish_task_update("t", {"n": number})
stop.set()
thread.join()
publisher.close()
print(count)
"""


def test_signal_handlers_may_raise_and_publish(redis_server: RedisServer) -> None:
    command = [sys.executable, "-c", SIGNALS, redis_server.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 100
    assert state_of(redis_server, "handler") == {"n": 1}


def post_and_end(url: str, name: str) -> None:
    Publisher(url).post_task_update(name, {"status": "completed"})


def post_by_parents(publisher: Publisher, name: str) -> None:
    publisher.post_task_update(name, {"status": "completed"})


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_what_a_child_has_posted_is_flushed_at_its_end(method: str, redis_server: RedisServer) -> None:
    context = multiprocessing.get_context(method)
    child = context.Process(target=post_and_end, args=(redis_server.url, "child"))  # type: ignore[attr-defined]
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert state_of(redis_server, "child") == {"status": "completed"}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_flushes_what_it_posted_by_its_parents_publisher(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url) as publisher:
        publisher.post_task_update("parent", {"n": 1})
        children = [
            multiprocessing.get_context("fork").Process(target=post_by_parents, args=(publisher, f"child{number}"))
            for number in range(3)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(20)
            assert child.exitcode == 0
        assert all(state_of(redis_server, f"child{number}") for number in range(3))
    assert [data for _, _, data in log_of(redis_server, "task:parent")] == [{"n": 1}]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_child_loses_is_logged(redis_server: RedisServer) -> None:
    program = (
        "import multiprocessing, sys; from relay_client import Publisher\n"
        "def work(): Publisher(sys.argv[1], deadline=0.3, timeout=0.2).post_task_update('t', {'n': 1})\n"
        "child = multiprocessing.get_context('fork').Process(target=work); child.start(); child.join()"
    )
    url = redis_server.url
    redis_server.kill()
    ended = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=30)
    assert "1 posted updates were not delivered" in ended.stderr


def test_a_plain_fork_that_exits_flushes(redis_server: RedisServer) -> None:
    program = (
        "import os, sys; from relay_client import Publisher; publisher = Publisher(sys.argv[1])\n"
        "publisher.publish_task_update('parent', {'n': 1})\n"
        "if os.fork() == 0: publisher.post_task_update('child', {'n': 2}); sys.exit(0)\n"
        "os.wait()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, redis_server.url], check=True, timeout=30)
    assert state_of(redis_server, "child") == {"n": 2}


def test_at_the_exit_of_the_interpreter_publishing_still_works(redis_server: RedisServer) -> None:
    """No thread can be started then."""
    program = (
        "import atexit, sys, time; from relay_client import Publisher; from relay_client.publishing import threads\n"
        "threads._IDLE_SECONDS = 0.01; publisher = Publisher(sys.argv[1], deadline=5)\n"
        "publisher.publish_task_update('t', {'n': 1})\n"
        "class Last:\n"
        "    def __del__(self): publisher.post_task_update('finalizer', {'n': 3})\n"
        "last = Last(); last.itself = last\n"
        "@atexit.register\n"
        "def end(): publisher.publish_task_update('t', {'n': 2})\n"
        "time.sleep(0.2)"
    )
    command = [sys.executable, "-c", program, redis_server.url]
    ended = subprocess.run(command, check=True, timeout=30, capture_output=True, text=True)
    assert ended.stderr == ""
    assert state_of(redis_server, "t") == {"n": 2}


def test_asyncio_a_second_event_loop_is_an_error_before_anything_is_sent(redis_server: RedisServer) -> None:
    publisher = relay_client.aio.Publisher(redis_server.url)

    async def publish(number: int) -> None:
        await publisher.publish_task_update("t", {"n": number})

    async def post() -> None:
        async with publisher:
            publisher.post_task_update("t", {"n": 3})

    with asyncio.Runner() as first:
        first.run(publish(1))
        for attempt in (publish(2), post()):
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(attempt)
        first.run(publish(4))
        first.run(publisher.close())
    assert [data["n"] for _, _, data in log_of(redis_server, "task:t")] == [1, 4]


def test_trio_a_second_run_is_an_error_before_anything_is_sent(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with relay_client.trio.Publisher(redis_server.url) as publisher:
            await publisher.publish_task_update("t", {"n": 1})

            def second() -> None:
                with pytest.raises(RuntimeError, match="another Trio run"):
                    trio.run(publisher.publish_task_update, "t", {"n": 2})

            await trio.to_thread.run_sync(second)
            await publisher.publish_task_update("t", {"n": 3})

    trio.run(main)
    assert [data["n"] for _, _, data in log_of(redis_server, "task:t")] == [1, 3]


def test_asyncio_a_reporter_whose_publisher_is_not_open_says_so(redis_server: RedisServer) -> None:
    async def main() -> None:
        publisher = relay_client.aio.Publisher(redis_server.url)
        with pytest.raises(RuntimeError, match="not open"):
            async with relay_client.aio.TaskReporter(publisher):
                pass

    asyncio.run(main())


def test_one_thread_sends_for_a_publisher_and_its_reporters(redis_server: RedisServer) -> None:
    program = (
        "import sys, threading; from relay_client import Publisher, TaskReporter\n"
        "with Publisher(sys.argv[1]) as publisher, TaskReporter(publisher) as report, report('a'), report('b') as task:\n"
        "    task.progress(1); publisher.post_general_update({'n': 1}); publisher.flush()\n"
        "    print(threading.active_count())"
    )
    command = [sys.executable, "-c", program, redis_server.url]
    shown = subprocess.run(command, check=True, timeout=30, capture_output=True, text=True, env=os.environ)
    assert shown.stdout.strip() == "2"
