"""Relay: live task updates from Redis to browsers, on Trio."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("trio-relay")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
