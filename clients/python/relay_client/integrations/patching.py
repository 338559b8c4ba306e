"""Methods of a library that has no hook for it: called as before, and something besides."""

from collections.abc import Callable
from functools import wraps
from typing import Any


def wrap_method(owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a method by another one that calls it; once, however often this is called.

    Args:
        owner: The class.
        name: Of the method.
        make: Makes the new method of the old one.
    """
    method = getattr(owner, name)
    if hasattr(method, "_relay_wraps"):
        return
    replaced = wraps(method)(make(method))
    replaced._relay_wraps = method  # type: ignore[attr-defined]
    setattr(owner, name, replaced)
