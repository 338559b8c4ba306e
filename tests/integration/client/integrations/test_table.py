"""The table of docs/integrations.md and the story: every row has its tests."""

from importlib import import_module
from pathlib import Path

from tests.integration.client.integrations.queues import TABLE
from tests.integration.client.integrations.story import Story


def test_every_row_of_the_table_is_tested() -> None:
    directory = Path(__file__).parent
    for path in directory.rglob("test_*.py"):
        import_module(".".join((__package__, *path.relative_to(directory).with_suffix("").parts)))
    assert {story.queue.row for story in Story.__subclasses__()} == set(TABLE)
