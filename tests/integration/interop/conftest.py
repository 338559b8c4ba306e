"""What Node needs."""

from pathlib import Path

import pytest

from tests.integration.interop.node_packages import install_node_packages

NODE = Path(__file__).parent / "node"


def install_packages() -> None:
    """Install what package-lock.json names. Of several test processes, one installs it and the others wait."""
    install_node_packages(NODE)


@pytest.fixture(scope="session")
def ws_package() -> None:
    """The `ws` package, as package-lock.json has it."""
    install_packages()
