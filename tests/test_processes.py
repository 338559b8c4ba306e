"""Temporary directories that killed processes leave behind, orphans that a process with id 1 gets, and the lock of a user."""

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from relay import processes
from relay.core.errors import ConfigError
from relay.processes import temporary_directory


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run(program: str, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_a_killed_process_left_is_cleared_and_what_another_has_is_not(place: Path) -> None:
    killed = run(
        """
        import os, signal
        from relay.processes import temporary_directory
        with temporary_directory("relay-x-") as directory:
            (directory / "file").write_text("left behind")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        place,
    )
    assert killed.returncode == -9
    assert len(list(place.glob("relay-x-*/file"))) == 1
    (place / "relay-xylophone").mkdir()  # another program's
    with temporary_directory("relay-x-") as one:
        assert list(place.glob("relay-x-*")) == [one]
        with temporary_directory("relay-x-") as other:
            assert set(place.glob("relay-x-*")) == {one, other}
            assert one.exists()
        assert one.exists()
    assert [path.name for path in place.iterdir()] == ["relay-xylophone"]


def test_a_directory_that_is_just_being_made_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "relay-x-young").mkdir()
    with temporary_directory("relay-x-"):
        assert (place / "relay-x-young").exists()
    monkeypatch.setattr(processes, "_LOCK_GRACE", -1.0)
    with temporary_directory("relay-x-"):
        assert not (place / "relay-x-young").exists()


def test_without_a_temporary_directory_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(ConfigError, match="TMPDIR"), temporary_directory("relay-x-"):
        pass


def test_a_lock_is_had_by_one_process_of_a_user(place: Path) -> None:
    program = "from relay.processes import take_lock; print(take_lock('relay-test'))"
    assert processes.take_lock("relay-test")
    assert run(program, place).stdout == "False\n"
    assert run(program.replace("relay-test", "relay-other"), place).stdout == "True\n"


def test_orphans_are_reaped_and_the_status_of_children_is_kept(place: Path) -> None:
    """In a process that is given orphans as one with id 1 is."""
    result = run(
        """
        import ctypes, os, subprocess, sys, time
        from pathlib import Path
        import trio
        from relay.processes import reap_orphans, start_child, wait_for_exit

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER

        def zombies():
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children]
            return states.count("Z")

        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reap_orphans)
                child = start_child(["sh", "-c", "sleep 0.2; exit 7"])
                for _ in range(3):
                    # Its parent ends at once, and leaves it to us.
                    subprocess.run(["sh", "-c", "sleep 0.1 & exit 0"], check=True)
                assert await wait_for_exit(child) == 7
                with trio.fail_after(20):
                    while zombies() or len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
                        await trio.sleep(0.02)
                nursery.cancel_scope.cancel()

        trio.run(main)
        """,
        place,
    )
    assert (result.returncode, result.stderr) == (0, "")
