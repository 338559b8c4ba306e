"""Calls one after the other, for a Redis that was not ready: in one round trip the later ones may be carried out alone."""

from collections.abc import Sequence
from typing import Any

from relay_wire.publications import ScriptCall

from relay.broker.contract import RunCalls
from relay.core.errors import BrokerUnavailable


async def run_in_turn(run_calls: RunCalls, calls: Sequence[ScriptCall]) -> list[Any]:
    """Run scripts, each when the one before it has been carried out.

    A server that becomes ready between two calls of one round trip, as a replica that is promoted does, refuses the first and
    carries out the second.

    Args:
        run_calls: Runs scripts.
        calls: The calls.

    Returns:
        The answers. From the first call on for which Redis is not ready, all are that error, and the others are not sent.

    Raises:
        BrokerUnavailable: Redis cannot be reached; any of the calls may have been carried out.
    """
    answers: list[Any] = []
    for call in calls:
        (answer,) = await run_calls([call])
        unready = next((each for each in _each(answer) if isinstance(each, BrokerUnavailable)), None)
        if unready is not None:
            return answers + [unready] * (len(calls) - len(answers))
        answers.append(answer)
    return answers


def _each(answer: Any) -> Sequence[Any]:
    """Return the answers in an answer, which may be that of a script to several."""
    return answer if type(answer) is list else (answer,)
