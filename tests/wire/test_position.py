"""Epochs: random, short, and never the same in a process and its fork."""

import multiprocessing
import re
from multiprocessing.connection import Connection

import pytest
from relay_wire.position import new_epoch


def test_epochs_differ() -> None:
    epochs = {new_epoch() for _ in range(1000)}
    assert len(epochs) == 1000
    assert all(re.fullmatch("[0-9a-f]{12}", epoch) for epoch in epochs)


def _send_epoch(connection: Connection) -> None:
    connection.send(new_epoch())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_draws_others_than_its_parent() -> None:
    new_epoch()  # the generator is there before the fork
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_send_epoch, args=(theirs,))
    child.start()
    child.join(20)
    assert ours.poll(20)
    assert ours.recv() != new_epoch()
    ours.close()
    theirs.close()
