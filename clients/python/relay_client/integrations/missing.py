"""The error of an integration whose library is not installed."""


def missing(library: str, extra: str) -> ModuleNotFoundError:
    """Return the error that says what to install.

    Args:
        library: The library's name, as its users write it.
        extra: The extra of trio-relay-client that brings it.
    """
    return ModuleNotFoundError(
        f"relay_client.integrations.{extra} needs {library}, which is not installed: "
        f"pip install 'trio-relay-client[{extra}]'"
    )
