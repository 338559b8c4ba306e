"""What `relay tail` raises."""


class TailError(Exception):
    """The relay cannot be followed: it refused the connection, or the URL or a task id is invalid."""
