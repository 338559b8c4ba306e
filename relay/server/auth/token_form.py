"""The form of a JSON Web Token, for those who only have to recognise one. It needs no package for grants."""

import re

#: Matches three parts of base64url (RFC 7515 section 7.1).
is_token = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*").fullmatch


def looks_like_token(text: str) -> bool:
    """Whether a text has the form of a token."""
    return text.startswith("eyJ") and is_token(text) is not None
