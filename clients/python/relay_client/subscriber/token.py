"""The token that a subscriber shows: a text, or a function that gets one, for each connection and when the last one ends."""

from collections.abc import Awaitable, Callable
from inspect import isawaitable

from relay_client.subscriber.runtime import Runtime

#: A token, or what returns one, at once or when it is awaited.
Token = str | Callable[[], str | Awaitable[str]]


class TokenFailed(Exception):
    """There is no token now."""


async def get_token(runtime: Runtime, token: Token, timeout: float) -> str:
    """Return a token.

    Raises:
        TokenFailed: The function failed, or took longer than `timeout` seconds.
    """
    if isinstance(token, str):
        return token
    try:
        async with runtime.deadline(runtime.current_time() + timeout):
            result = token()
            return await result if isawaitable(result) else str(result)
    except TimeoutError:
        raise TokenFailed(f"no token within {timeout:g} s") from None
    except Exception as error:
        raise TokenFailed(f"no token: {type(error).__name__}: {error}") from error
