"""What Node needs."""

from pathlib import Path

import pytest

from tests.integration.interop.node_packages import install_node_packages


def install_packages() -> None:
    """Install what package-lock.json names. Of several test processes, one installs it and the others wait."""
    install_node_packages(Path(__file__).parent / "node")


@pytest.fixture(scope="session")
def ws_package() -> None:
    """The `ws` package, as package-lock.json has it."""
    install_packages()
