"""What decoding JSON that others have sent may raise."""

import msgspec

#: No JSON, or of another type; bytes that are no UTF-8, of which some kinds of decoding know only later; nested too deeply.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
