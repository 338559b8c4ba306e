"""Progress bars of programs that know nothing of tasks, and of such that do."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from relay_wire import keys

from tests.harness import RedisServer
from tests.integration.client.integrations.queues import PYTHON
from tests.integration.client.reading import log_of, state_of

TQDM = "from relay_client.integrations.tqdm import tqdm\n"
INSTALLED = "from tqdm.auto import tqdm\nfrom relay_client.integrations.tqdm import install\ninstall()\n"
RICH = "from relay_client.integrations.rich import track\n"
RICH_INSTALLED = "from rich.progress import track\nfrom relay_client.integrations.rich import install\ninstall()\n"
ALIVE = "from relay_client.integrations.alive_progress import alive_bar, alive_it\n"

#: On a busy machine, a process that has just begun may not be connected after the three seconds that its end waits for Redis.
PATIENT = "from relay_client.integrations.bars import _reporter\n_reporter().exit_timeout = 30\n"

LOOPS = {
    "tqdm": TQDM + "for _ in tqdm(range(8), 'Rendering'): pass",
    "tqdm, disabled": TQDM + "for _ in tqdm(range(8), 'Rendering', disable=True): pass",
    "tqdm, by hand": TQDM + "with tqdm(desc='Rendering', total=8) as bar: bar.update(3); bar.update(5)",
    "tqdm, disabled and by hand": TQDM + "with tqdm(desc='Rendering', total=8, disable=True) as bar: bar.update(8)",
    "tqdm, installed": INSTALLED + "for _ in tqdm(range(8), 'Rendering'): pass",
    "rich": RICH + "for _ in track(range(8), 'Rendering'): pass",
    "rich, installed": RICH_INSTALLED + "for _ in track(range(8), '[red]Rendering[/]'): pass",
    "alive": ALIVE + "for _ in alive_it(range(8), title='Rendering'): pass",
    "alive, by hand": ALIVE + "with alive_bar(8, title='Rendering') as bar:\n    for _ in range(8): bar()",
}


def run(program: str, redis: RedisServer, directory: Path) -> subprocess.CompletedProcess[str]:
    environ = {"REDIS_URL": redis.url, "PATH": "/usr/bin:/bin", "HOME": str(directory)}
    return subprocess.run(
        [PYTHON, "-c", program],
        env=environ,
        cwd=directory,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )


def only_task(redis: RedisServer) -> dict[str, Any]:
    with redis.client() as client:
        (announced,) = [data for _, _, data in log_of(redis, "general")]
        assert client.exists(keys.meta("general"))
    return state_of(redis, announced["task_info"]["task_id"])


@pytest.mark.parametrize("loop", LOOPS)
def test_a_bar_outside_of_any_task_is_a_task(loop: str, shared_redis: RedisServer, tmp_path: Path) -> None:
    ended = run(PATIENT + LOOPS[loop], shared_redis, tmp_path)
    assert ended.returncode == 0, ended.stderr
    state = only_task(shared_redis)
    assert (state["status"], state["title"], state["progress"]) == ("completed", "Rendering", 100), ended.stderr
    assert (state["done"], state["total"]) == (8, 8)


@pytest.mark.parametrize(
    "loop",
    [
        TQDM + "for number in tqdm(range(8), 'Rendering'):\n    if number == 3: raise ValueError('broken')",
        RICH + "for number in track(range(8), 'Rendering'):\n    if number == 3: raise ValueError('broken')",
        ALIVE + "with alive_bar(8, title='Rendering') as bar:\n    bar(3)\n    raise ValueError('broken')",
    ],
)
def test_an_error_in_a_loop(loop: str, shared_redis: RedisServer, tmp_path: Path) -> None:
    assert "broken" in run(loop, shared_redis, tmp_path).stderr
    state = only_task(shared_redis)
    assert state["status"] in ("failed", "cancelled")  # an iterator is only told that its loop was left
    assert state["done"] == 3


def test_a_bar_in_a_task_is_its_progress(shared_redis: RedisServer, tmp_path: Path) -> None:
    program = TQDM + (
        "from relay_client import TaskReporter\n"
        "with TaskReporter() as reporter, reporter('t', title='A picture'):\n"
        "    for _ in tqdm(range(4), 'Rendering'):\n"
        "        for _ in tqdm(range(100), 'Inner'): pass\n"
    )
    ended = run(program, shared_redis, tmp_path)
    assert ended.returncode == 0, ended.stderr
    state = only_task(shared_redis)
    assert (state["title"], state["message"], state["done"], state["total"]) == ("A picture", "Rendering", 4, 4)


def test_without_redis_a_loop_goes_on(tmp_path: Path, redis_server: RedisServer) -> None:
    redis_server.kill()
    ended = run(TQDM + "for _ in tqdm(range(100_000)): pass\nprint('done')", redis_server, tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
    assert "at exit: the last updates of some of 1 tasks were not delivered" in ended.stderr
