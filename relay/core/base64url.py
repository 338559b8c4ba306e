"""Base64url without padding, as tokens have it, read strictly: the same bytes are written in one way only."""

from binascii import a2b_base64

#: From base64url to base64. What only base64 has becomes what neither has.
_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")

_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

#: By how many characters there are beyond a multiple of four: the padding, and the last characters that leave no bit unused
#: which is set (RFC 4648 section 3.5).
_ENDS = (
    (b"", frozenset((b"", *(bytes((digit,)) for digit in _DIGITS)))),
    (b"===", frozenset[bytes]()),
    (b"==", frozenset(bytes((digit,)) for digit in _DIGITS[::16])),
    (b"=", frozenset(bytes((digit,)) for digit in _DIGITS[::4])),
)


def decode(text: bytes) -> bytes:
    """Return the bytes that a text stands for.

    Args:
        text: Without padding.

    Raises:
        ValueError: It is no base64url.
    """
    base64 = text.translate(_BASE64)
    padding, last = _ENDS[len(base64) % 4]
    if base64[-1:] not in last:
        raise ValueError("unused bits are set")
    return a2b_base64(base64 + padding, strict_mode=True)
