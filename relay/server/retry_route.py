"""The HTTP route by which an ended task is run again: ``/tasks/<id>/retry``."""

import msgspec
from quart import Response
from quart_trio import QuartTrio
from relay_wire.retries import FIELD, NOT_KEPT, RUNNING
from relay_wire.statuses import CANCELLED, FAILED

from relay.core.channels import task_channel
from relay.core.grants import Verb
from relay.core.json_errors import NOT_JSON
from relay.server.api_access import require_write
from relay.server.api_responses import error_response, json_of, json_response, task_id_of_request, unknown_task
from relay.server.publish_access import Target
from relay.server.running_relay import RelayHandle
from relay.server.task_paths import TaskPaths

_NOT_FAILED = "only a task that has failed or was cancelled can be run again"
_NOT_RETRYABLE = (
    "nobody can run this task again: its worker has not kept its job, or no longer; start a new task instead"
)
_RUNNING = "the task waits for a worker or runs already"


def add_retry_route(app: QuartTrio, relay: RelayHandle, paths: TaskPaths) -> None:
    """Add the route to an app.

    Args:
        app: The app.
        relay: The relay, once it has started.
        paths: The paths of the API.
    """

    @app.post(paths.retry_route)
    async def retry() -> Response:
        """Run a task again that has failed or was cancelled, with the job that its worker has kept."""
        task_id = task_id_of_request()
        running = relay.running
        await require_write(running, Verb.PUBLISH, [Target(task_channel(task_id))])
        task = await running.tasks.get(task_id)
        if task is None:
            return unknown_task()
        if _decoded(task.fields.get("status")) not in (FAILED, CANCELLED):
            return error_response(409, "not_failed", _NOT_FAILED)
        if _decoded(task.fields.get(FIELD)) is not True:
            return error_response(409, "not_retryable", _NOT_RETRYABLE)
        outcome = await running.tasks.retry(task_id)
        if outcome == NOT_KEPT:
            return error_response(409, "not_retryable", _NOT_RETRYABLE)
        if outcome == RUNNING:
            return error_response(409, "runs_already", _RUNNING)
        return json_response(202, json_of({"task_id": task_id, "outcome": "queued"}))


def _decoded(value: bytes | None) -> object:
    try:
        return None if value is None else msgspec.json.decode(value)
    except NOT_JSON:
        return None  # another program wrote it
