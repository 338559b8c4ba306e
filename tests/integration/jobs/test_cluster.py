"""The queue on a Redis Cluster: all of it on one node, and through that node's fail-over."""

from pathlib import Path

from redis.crc import key_slot
from relay_client import CancelListener
from relay_jobs.manager import TaskManager

from tests.harness import eventually
from tests.integration.jobs.rig import HANDLERS, WorkerProcess, has_begun, state_when
from tests.topologies import ClusterSetup


def test_tasks_on_a_cluster(tmp_path: Path) -> None:
    with (
        ClusterSetup(tmp_path) as cluster,
        TaskManager(cluster.url) as manager,
        WorkerProcess(tmp_path, cluster.url, HANDLERS, {}) as worker,
    ):
        eventually(worker.is_up)
        done = manager.create("slow", {"seconds": 0.1})
        tried = manager.create("flaky", {"succeeds": 2, "file": str(tmp_path / "tries")})
        stopped = manager.create("slow", {"seconds": 30})
        state_when(manager, stopped, has_begun)
        assert manager.cancel(stopped)
        for task_id, status in ((done, "completed"), (tried, "completed"), (stopped, "cancelled")):
            assert manager.wait(task_id, 10).status == status
        assert {task.task_id for task in manager.list()} == {done, tried, stopped}
        # A listener hears of tasks on every node, whether they were cancelled before or after it began.
        with CancelListener(cluster.url) as listener:
            waiting = [manager.create("nobodys") for _ in range(6)]
            assert all(manager.cancel(task_id) for task_id in waiting[:3])
            watches = [listener.watch(task_id) for task_id in waiting]
            assert all(watch.cancelled.wait(20) for watch in watches[:3])
            assert all(manager.cancel(task_id) for task_id in waiting[3:])
            assert all(watch.cancelled.wait(20) for watch in watches[3:])
        moved = manager.create("slow", {"seconds": 1.5})
        state_when(manager, moved, has_begun)
        cluster.hand_over(cluster.nodes[min(key_slot(b"jobs") // 5461, 2)])
        after = manager.create("slow", {"seconds": 0.1})
        assert [manager.wait(task_id, 15).status for task_id in (moved, after)] == ["completed"] * 2
        worker.child.terminate()
        assert worker.wait() == 0
