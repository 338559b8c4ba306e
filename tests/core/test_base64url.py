"""Base64url is read as it is written, and in no other way."""

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import base64url


@given(st.binary(max_size=40))
def test_what_is_written_is_read(data: bytes) -> None:
    assert base64url.decode(urlsafe_b64encode(data).rstrip(b"=")) == data


@given(st.text("ABab09-_+/= .\n\u00e4", max_size=9).map(str.encode))
def test_no_two_texts_are_the_same_bytes(text: bytes) -> None:
    try:
        data = base64url.decode(text)
    except ValueError:
        return
    assert urlsafe_b64encode(data).rstrip(b"=") == text


@pytest.mark.parametrize("text", [b"A", b"AAAAA", b"AB", b"AAB", b"A+==", b"AA==", b"a/", b"AA A", b"AAAA\n"])
def test_what_is_not_base64url_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        base64url.decode(text)
