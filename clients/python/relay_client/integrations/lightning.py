"""Lightning: a training as the progress of a task.

from relay_client.integrations.lightning import RelayCallback

trainer = Trainer(..., callbacks=[RelayCallback()])

Within a task of a queue the steps are the task's progress; outside of any task a training is a task of its own.
"""

from typing import Any

from relay_client.integrations.bars import Bar
from relay_client.integrations.missing import missing

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise missing("Lightning 2.2 or newer", "lightning") from error


class RelayCallback(Callback):  # type: ignore[misc]
    """Reports batches, logged metrics and errors of a training, from the main process of a distributed one."""

    def __init__(self, title: str = "Training") -> None:
        """Make a callback.

        Args:
            title: The task's title, where the training is a task of its own.
        """
        self._title = title
        self._bar: Bar | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """The training begins."""
        if trainer.is_global_zero:
            self._bar = Bar(self._title, _total(trainer))

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """A batch is done. Raises TaskCancelled if a watcher has cancelled the task."""
        if self._bar is None:
            return
        self._bar.set(trainer.global_step, _total(trainer), f"Epoch {trainer.current_epoch + 1}")
        if trainer.logged_metrics:
            self._bar.report({name: float(value) for name, value in trainer.logged_metrics.items()})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """The training has ended."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """The training has failed, or was interrupted."""
        if self._bar is not None:
            self._bar.close(exception)


def _total(trainer: Any) -> float | None:
    """Return the number of steps; None where the training has no end."""
    total = trainer.estimated_stepping_batches
    return float(total) if 0 < total < float("inf") else None
