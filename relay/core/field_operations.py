"""Operations on fields: values of a task update that append to a field instead of replacing it.

The notation is in docs/protocol.md. Everything here works on JSON text and never decodes what is appended: text is appended by
joining the insides of two strings.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from relay_wire.channels import APPEND, SET

from relay.core.errors import BadMessage
from relay.core.json_errors import NOT_JSON

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_APPEND_HEAD, _SET_HEAD = (b'{"%b":' % name.encode() for name in (APPEND, SET))

_BLANKS = b" \t\r\n"


class Operation(NamedTuple):
    """What is done with a field.

    Attributes:
        is_append: The operand is appended or added; else the field becomes the operand.
        operand: JSON text.
    """

    is_append: bool
    operand: bytes

    def encoded(self) -> bytes:
        """Return the operation as JSON text."""
        return b"%b%b}" % (_APPEND_HEAD if self.is_append else _SET_HEAD, self.operand)


def may_have_operations(data: bytes) -> bool:
    """Return False only if there is no operation in the JSON text of an update."""
    # The names of all of them begin with this character, which may be escaped.
    return b"$" in data or b"\\u0024" in data


def operation_of(value: bytes) -> Operation | None:
    """Return the operation that the JSON text of a value is, or None for a plain value."""
    if value[:1] != b"{" or not may_have_operations(value):
        return None
    try:
        members = _decode_object(value)
    except NOT_JSON:
        return None
    if len(members) != 1:
        return None
    ((name, operand),) = members.items()
    return Operation(name == APPEND, bytes(operand)) if name in (APPEND, SET) else None


def check_operation(name: str, operation: Operation) -> None:
    """Check that an operation may be done at all; whether it suits the field is known to Redis.

    Raises:
        BadMessage: It appends to the status, or what is neither text, list nor number.
    """
    if not operation.is_append:
        return
    if name == "status":
        raise BadMessage("bad_operation", "the field `status` cannot be appended to")
    if operation.operand[:1] not in b'"[-0123456789':
        raise BadMessage("bad_operation", f"{APPEND} in the field {name[:64]!r} must be a text, a list or a number")


def literal(value: bytes) -> bytes:
    """Return what stands for a plain value in an update with operations."""
    return value if operation_of(value) is None else Operation(False, value).encoded()


def without_operations(fields: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the fields that are set, with their plain values, and without those that are appended to."""
    plain: dict[str, bytes] = {}
    for name, value in fields.items():
        operation = operation_of(value)
        if operation is None:
            plain[name] = value
        elif not operation.is_append:
            plain[name] = operation.operand
    return plain


class FoldedField:
    """The values of one field in several updates, folded into one: later ones replace earlier ones, or are appended to them.

    Many small pieces are joined once.
    """

    __slots__ = ("_is_append", "_pieces", "_plain")

    def __init__(self) -> None:
        self._plain: bytes | None = None  # a value to which nothing was appended
        self._is_append = False  # the pieces are to be appended to a value that is not known here
        self._pieces: list[bytes] = []

    def add(self, value: bytes) -> None:
        """Take the field's value in the next update.

        Raises:
            BadMessage: It is appended to a value of another type.
        """
        operation = operation_of(value)
        if operation is None or not operation.is_append:
            self._plain = value if operation is None else operation.operand
            self._pieces = []
            self._is_append = False
            return
        if self._plain is None and not self._pieces:
            self._is_append = True
        elif self._plain == b"null":
            self._plain = operation.operand
            return
        elif self._plain is not None:
            self._pieces, self._plain = [self._plain], None
        first = self._pieces[0][:1] if self._pieces else operation.operand[:1]
        if first != operation.operand[:1] or first not in (b'"', b"["):
            raise BadMessage("bad_operation", "an update appends to a value of another type")
        self._pieces.append(operation.operand)

    def value(self) -> bytes:
        """Return the folded value, as a field of an update with operations."""
        if self._plain is not None:
            return literal(self._plain)
        joined = joined_values(self._pieces)
        return Operation(True, joined).encoded() if self._is_append else joined


def joined_values(pieces: Iterable[bytes]) -> bytes:
    """Return the JSON text of texts, or of lists, one after the other.

    Args:
        pieces: JSON texts of the same type, one at least.
    """
    pieces = list(pieces)
    if pieces[0][:1] == b'"':
        return b'"%b"' % b"".join(piece[1:-1] for piece in pieces)
    return b"[%b]" % b",".join(inside for piece in pieces if (inside := piece[1:-1].strip(_BLANKS)))
