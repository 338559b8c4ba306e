"""API keys: a key is found only whole, and a malformed entry is refused without showing what may be secret."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.api_keys import PREFIX, ApiKeys, create_key, read_entry, read_keys
from relay.core.errors import BadGrant
from relay.core.grants import Decision, Verb

KEY, OTHER = PREFIX + "Ab1-" * 10 + "xyz", PREFIX + "Ab1_" * 10 + "xyz"
ENTRY = f"ci:{sha256(KEY.encode()).hexdigest()}:publish:prefix:order-7/ watch:all"
OTHER_ENTRY = f"ci:{sha256(OTHER.encode()).hexdigest()}:publish:all"
KEYS = ApiKeys(read_keys(f"{ENTRY};{OTHER_ENTRY}"))


def test_a_key_has_its_own_scopes_and_several_may_have_one_name() -> None:
    grant, other = KEYS.find(KEY), KEYS.find(OTHER)
    assert grant is not None
    assert other is not None
    assert grant.subject == other.subject == "key:ci"
    assert grant.decide(Verb.PUBLISH, "task:order-7/a") is Decision.ALLOWED
    assert grant.decide(Verb.PUBLISH, "task:order-8/a") is Decision.DENIED
    assert grant.decide(Verb.CANCEL, "task:order-7/a") is Decision.DENIED
    assert other.decide(Verb.PUBLISH, "task:order-8/a") is Decision.ALLOWED


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_a_key_off_by_one_character_is_no_key(place: int, character: str) -> None:
    wrong = KEY[:place] + character + KEY[place + 1 :]
    assert (KEYS.find(wrong) is None) == (wrong != KEY)
    assert KEYS.find(KEY[:place]) is None
    assert KEYS.find(KEY + character) is None


@pytest.mark.parametrize("key", ["", PREFIX, KEY.upper(), KEY * 100, "\udcff", ENTRY.split(":")[1]])
def test_what_is_no_key_is_not_found(key: str) -> None:
    assert KEYS.find(key) is None
    assert ApiKeys([]).find(key) is None


def test_the_entry_has_the_hash_and_not_the_key() -> None:
    key, entry = create_key("ci", "publish:all")
    assert key not in entry
    assert len(key) == len(KEY)
    assert ApiKeys([read_entry(entry)]).find(key) is not None
    assert create_key("ci", "publish:all")[0] != key


def test_a_file_has_comments_and_names_with_semicolons() -> None:
    digest = ENTRY.split(":")[1]
    (key,) = read_keys(f"# of the build\n\n ci:{digest}:publish:task:a;b \n", "\n")
    assert key.grant.decide(Verb.PUBLISH, "task:a;b") is Decision.ALLOWED


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (KEY, "begins with its name"),
        (f"ci:{KEY}:publish:all", "not the key itself"),
        (f"c i:{'0' * 64}:publish:all", "begins with its name"),
        (f"ci:{'0' * 63}:publish:all", "64 hexadecimal"),
        (f"ci:{'0' * 64}", "no scopes"),
        (f"ci:{'0' * 64}: ", "no scopes"),
        (f"ci:{'0' * 64}:publsh:all", "publsh"),
        (f"ci:{'0' * 64}:publish:everything", "everything"),
    ],
)
def test_a_malformed_entry_is_refused_without_showing_it(entry: str, message: str) -> None:
    with pytest.raises(BadGrant, match=message) as caught:
        read_entry(entry)
    assert KEY not in str(caught.value)


def test_no_more_keys_are_taken_than_can_be_compared() -> None:
    with pytest.raises(BadGrant, match="at most 1000"):
        read_keys("\n".join([ENTRY] * 1001))
