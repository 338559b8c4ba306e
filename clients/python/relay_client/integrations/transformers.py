"""transformers: a training as the progress of a task.

from relay_client.integrations.transformers import RelayCallback

trainer = Trainer(..., callbacks=[RelayCallback()])

Within a task of a queue the steps are the task's progress; outside of any task a training is a task of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

from relay_client.integrations.bars import Bar
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method

try:
    from transformers import Trainer, TrainerCallback
except (ImportError, RuntimeError) as error:  # transformers itself imports without torch, its Trainer does not
    raise missing("transformers 4.40 or newer, and torch", "transformers") from error


class RelayCallback(TrainerCallback):  # type: ignore[misc]
    """Reports steps, logs and errors of a training, from the main process of a distributed one."""

    def __init__(self, title: str = "Training") -> None:
        """Make a callback.

        Args:
            title: The task's title, where the training is a task of its own.
        """
        self._title = title
        self._bar: Bar | None = None
        wrap_method(Trainer, "train", _training)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """The training begins."""
        if state.is_world_process_zero:
            self._bar = Bar(self._title, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """A step is done. Raises TaskCancelled if a watcher has cancelled the task."""
        if self._bar is not None:
            self._bar.set(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """There are new values, such as the loss. Raises as `on_step_end`."""
        if self._bar is not None and isinstance(logs, Mapping):
            self._bar.report(numbers(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """The training has ended."""
        self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Report the end. Closing twice is no error.

        Args:
            error: Why the training has failed.
        """
        if self._bar is not None:
            self._bar.close(error)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those of some values that are numbers."""
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _training(train: Callable[..., Any]) -> Callable[..., Any]:
    """Have errors reported, which callbacks are not called for."""

    def reporting(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return train(self, *args, **kwargs)
        except BaseException as error:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, RelayCallback):
                    callback.close(error)
            raise

    return reporting
