"""The grants of tokens that were verified lately, so that a token which comes again need not be verified again."""

from relay.core.grants import Grant

#: Tokens that are remembered, and their characters in all, which bound how much the grants can take.
MAX_TOKENS = 16_384
MAX_LENGTH = 16 * 1024 * 1024


class RememberedTokens:
    """Grants by the digest of their token: those that were used lately, and some of those that were used before.

    A grant that is found moves from the older ones to the newer ones. Of the older ones any may be forgotten to make room. So
    none needs a place in an order, nor its length beside it.

    Args:
        max_tokens: Tokens that are remembered.
        max_length: Their characters in all. One token more may go beyond that.
    """

    def __init__(self, max_tokens: int = MAX_TOKENS, max_length: int = MAX_LENGTH) -> None:
        self._max_tokens = max_tokens
        self._max_newer_length = max_length // 2
        self._newer: dict[bytes, Grant] = {}
        self._newer_length = 0
        self._older: dict[bytes, Grant] = {}

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def find(self, digest: bytes, length: int) -> Grant | None:
        """Return the grant of a token, which has been used by that; None if it is not remembered.

        Args:
            digest: The digest of the token.
            length: Its length in characters.
        """
        grant = self._newer.get(digest)
        if grant is None and self._older:
            grant = self._older.pop(digest, None)
            if grant is not None:
                self.add(digest, grant, length)
        return grant

    def add(self, digest: bytes, grant: Grant, length: int) -> None:
        """Remember the grant of a token that was not found; arguments as in `find`."""
        is_full = len(self._newer) + len(self._older) >= self._max_tokens
        if self._newer_length > self._max_newer_length or (is_full and not self._older):
            self._older, self._newer, self._newer_length = self._newer, {}, 0
            is_full = len(self._older) >= self._max_tokens
        if is_full:
            self._older.popitem()
        self._newer[digest] = grant
        self._newer_length += length

    def clear(self) -> None:
        """Forget all of them."""
        self._newer, self._older, self._newer_length = {}, {}, 0
