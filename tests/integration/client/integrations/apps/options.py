"""The options that every application gives to its integration."""

from relay_client.integrations.job import Arguments


def title(arguments: Arguments) -> str:
    return f"Story {arguments['token']}"


def owner(arguments: Arguments) -> str:
    return f"user:{arguments['token']}"
