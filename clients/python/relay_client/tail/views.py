"""Where `relay tail` shows updates: the contract, and lines of JSON. `progress_view` is for terminals."""

from typing import Protocol

import trio
import typer

from relay_client.subscriber import Update


class View(Protocol):
    """Where updates are shown. Only `run` waits."""

    def show(self, update: Update) -> None:
        """Show an update."""

    def forget(self, task_id: str) -> None:
        """A task is no longer followed."""

    def remark(self, text: str) -> None:
        """Show something about the connection."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what takes time, until cancelled."""


class JsonLines:
    """One line of JSON for each update, as the relay sent it. Remarks go to stderr and begin with "#"."""

    def show(self, update: Update) -> None:
        typer.echo(update.text)

    def forget(self, task_id: str) -> None:  # noqa: ARG002 - the contract's
        return

    def remark(self, text: str) -> None:
        typer.echo(f"# {text}", err=True)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
