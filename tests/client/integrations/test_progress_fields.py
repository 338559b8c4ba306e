"""What applications keep as progress, in Relay's terms."""

from typing import Any

import pytest
from relay_client.integrations.progress_fields import fraction, progress_fields


@pytest.mark.parametrize(
    ("meta", "fields"),
    [
        (
            {"pending": False, "current": 3, "total": 4, "percent": 75.0, "description": "Third"},  # celery-progress
            {"done": 3, "total": 4, "progress": 75.0, "message": "Third"},
        ),
        ({"current": 1, "total": 3, "status": "Busy"}, {"done": 1, "total": 3, "progress": 33.33, "message": "Busy"}),
        ({"progress": 40, "stage": "image", "secret": "x"}, {"progress": 40, "stage": "image"}),
        ({"current": 3, "total": 0}, {"done": 3}),
        ({"progress": 250}, {}),
        ({"current": True, "message": ""}, {}),
        (None, {}),
        ("40 %", {}),
    ],
)
def test_progress_of_a_mapping(meta: Any, fields: dict[str, Any]) -> None:
    assert progress_fields(meta) == fields


def test_a_fraction_is_never_out_of_range() -> None:
    assert [fraction(*each) for each in ((None, 1), (1, None), (1, 0), (5, 4), (-1, 4), (1, 8))] == [
        None,
        None,
        None,
        100.0,
        0.0,
        12.5,
    ]
