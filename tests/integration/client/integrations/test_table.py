"""The table of docs/integrations.md and the story: every row has its tests."""

from importlib import import_module
from pathlib import Path

from tests.integration.client.integrations.queues import TABLE
from tests.integration.client.integrations.story import Story


def test_every_row_of_the_table_is_tested() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        import_module(f"{__package__}.{path.stem}")
    assert {story.queue.row for story in Story.__subclasses__()} == set(TABLE)
