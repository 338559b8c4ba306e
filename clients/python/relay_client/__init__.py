"""Publish and follow the progress of background tasks through Relay."""

__version__ = "0.1.0"
