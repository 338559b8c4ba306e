"""What decoding JSON that others have sent may raise, and what it is to them."""

import msgspec

from relay.core.errors import BadMessage

#: No JSON, or of another type; bytes that are no UTF-8, of which some kinds of decoding know only later; nested too deeply.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def bad_message(error: Exception, subject: str = "") -> BadMessage:
    """Return the error for one of `NOT_JSON`.

    Args:
        error: What decoding has raised.
        subject: The beginning of a sentence that says what was decoded, such as "the body is ".
    """
    match error:
        case UnicodeDecodeError():
            return BadMessage("invalid_utf8", f"{subject}not valid UTF-8 at byte {error.start}")
        case RecursionError():
            return BadMessage("too_deep", f"{subject}nested too deeply")
        case msgspec.ValidationError():
            return BadMessage("wrong_type", f"{subject}not of the expected form: {error}")
        case _:
            return BadMessage("not_json", f"{subject}not JSON: {error}")
