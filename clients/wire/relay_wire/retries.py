"""Running an ended task again: what its worker has kept of it goes back into the queue of its kind.

A worker of `relay_jobs` whose task has failed or was cancelled keeps the job for as long as Redis keeps the task's state, and
sets the field `FIELD`. A request to retry moves the job into the queue in one script, and publishes that the task waits. If the
caller dies in between, the worker that takes the job publishes it, under the same idempotency key.

All keys have the hash tag of the queue, so they lie on one node of a cluster.
"""

import json
from typing import Any

from relay_wire.publications import ScriptCall, to_text
from relay_wire.scripts import Script

#: What the keys of the queue begin with.
PREFIX = "relay:{jobs}:"

#: The field of an ended task that says that it can be run again.
FIELD = "retryable"

#: What a request has come to: it is in the queue; it is there already, or runs; nothing was kept of it.
QUEUED, RUNNING, NOT_KEPT = "queued", "running", "not kept"

_KIND = Script.of("return redis.call('HGET', KEYS[1], 'kind')")

#: KEYS kept, task, queue; ARGV task id, token of this request. What needs memory is written first. May be repeated.
#: Returns what it has come to, and the job.
_RETRY = Script.of("""
local token = redis.call('HGET', KEYS[2], 'token')
if token then
  return { token == ARGV[2] and 'queued' or 'running', redis.call('HGET', KEYS[2], 'job') or '' }
end
local job = redis.call('HGET', KEYS[1], 'job')
if not job then return { 'not kept', '' } end
redis.call('HSET', KEYS[2], 'job', job, 'token', ARGV[2], 'again', ARGV[2])
redis.call('HSET', KEYS[2], 'entry', redis.call('XADD', KEYS[3], '*', 'task_id', ARGV[1]))
redis.call('DEL', KEYS[1])
return { 'queued', job }
""")


def queue_key(kind: str) -> str:
    """Return the key of a stream: the tasks that wait for a worker, and those that run."""
    return f"{PREFIX}queue:{kind}"


def task_key(task_id: str) -> str:
    """Return the key of a hash: what is known of one task that waits or runs."""
    return f"{PREFIX}task:{task_id}"


def kept_key(task_id: str) -> str:
    """Return the key of a hash with the kind and the job of a task that has failed or was cancelled."""
    return f"{PREFIX}kept:{task_id}"


def update_key(task_id: str, token: str) -> str:
    """Return the idempotency key of the update that says that the task waits again."""
    return f"retried:{task_id}:{token}"


def kind_call(task_id: str) -> ScriptCall:
    """Return a call for the kind of a task that can be run again; its answer is None if nothing was kept of it."""
    return ScriptCall(_KIND, [kept_key(task_id)], [])


def retry_call(task_id: str, kind: str, token: str) -> ScriptCall:
    """Return a call that puts a task back into its queue; `read_retry` reads its answer.

    Args:
        task_id: The task.
        kind: What `kind_call` has answered.
        token: A unique name of this request.
    """
    return ScriptCall(_RETRY, [kept_key(task_id), task_key(task_id), queue_key(kind)], [task_id, token])


def read_retry(answer: Any) -> tuple[str, dict[str, Any]]:
    """Return `QUEUED`, `RUNNING` or `NOT_KEPT`; and with `QUEUED` the fields with which the task begins again.

    Raises:
        ValueError: The answer is of another form. So do TypeError and UnicodeDecodeError.
    """
    outcome, text = answer
    name = to_text(outcome)
    if name not in (QUEUED, RUNNING, NOT_KEPT):
        raise ValueError(f"not an answer of the retry script: {name!r:.80}")
    if name != QUEUED:
        return name, {}
    match json.loads(text):
        case {"info": dict(info)}:
            return name, info
    raise ValueError("the job that was kept lacks its info")
