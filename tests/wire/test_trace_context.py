"""Which texts are sampled trace contexts, by W3C Trace Context."""

import pytest
from relay_wire.trace_context import sampled

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (f"00-{IDS}-01", f"00-{IDS}-01"),
        (f" 00-{IDS}-01\t", f"00-{IDS}-01"),  # as headers may come
        (f"00-{IDS}-03", f"00-{IDS}-03"),  # with the flag that the id is random
        (f"00-{IDS}-ff", f"00-{IDS}-03"),  # flags of a version to come are not passed on
        (f"cc-{IDS}-01-what.the.future.brings", f"00-{IDS}-01"),
        (f"cc-{IDS}-01", f"00-{IDS}-01"),
    ],
)
def test_sampled(given: str, passed_on: str) -> None:
    assert sampled(given) == passed_on


@pytest.mark.parametrize(
    "given",
    [
        "",
        f"00-{IDS}-00",
        f"00-{IDS}-02",
        f"00-{IDS}-01-more",
        f"cc-{IDS}-01.more",
        f"ff-{IDS}-01",
        f"00-{IDS}-1",
        f"00-{IDS}",
        f"00-{IDS}-01".upper(),
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        f"00-{IDS.replace('-', '_')}-01",
        f"00-{IDS}-01\nmore",
        f"cc-{IDS}-01-" + "x" * 1000,
    ],
)
def test_not_sampled_or_no_context(given: str) -> None:
    assert sampled(given) is None
