"""Grants in writing: the claims of a token, and the compact form for settings and the command line.

A token's claim ``relay`` has an object for each verb::

    {"watch": {"tasks": ["demo"], "prefixes": ["order-7/"], "owned": true, "general": true, "channels": ["news"]}}

The compact form has the same in words that are separated by spaces, such as ``watch:task:demo watch:prefix:order-7/``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn

import msgspec
from relay_wire.channels import MAX_NAME_LENGTH

from relay.core.errors import BadGrant
from relay.core.grants import Grant, Scope, SharedBy, Verb
from relay.core.json_errors import NOT_JSON
from relay.core.topics import ANY, MAX_TOPIC, is_template

#: Most ids, prefixes and names in one list, and most groups.
MAX_NAMES = 1000

#: Kinds of scopes: in claims the key is the attribute of `Scope`, except that "all" stands for everything.
_LISTS = ("tasks", "prefixes", "channels", "channel_prefixes", "topics")
_FLAGS = {"owned": "owned", "general": "general", "all": "everything"}

#: Words of the compact form that are followed by a name, and the lists that the name goes to.
_WORDS = {
    "task": "tasks",
    "prefix": "prefixes",
    "channel": "channels",
    "channel_prefix": "channel_prefixes",
    "topic": "topics",
}

#: The type of Mercure's authorization details.
_MERCURE_DETAIL = "https://mercure.rocks/authorization-detail"

#: The verbs of Mercure's claim.
_MERCURE_VERBS = {"subscribe": Verb.WATCH, "publish": Verb.PUBLISH}

#: Latest time in a claim: some 3,000 years. What is greater is no number of seconds, and would not fit the clocks.
_MAX_SECONDS = 1e11

_NO_GROUPS: frozenset[str] = frozenset()

_NUMBER = (int, float)

#: Longest text of a claim whose scopes are remembered, in bytes.
_MAX_SHARED = 512

_encoded = msgspec.json.Encoder().encode

_VERBS = {verb.value: verb for verb in Verb}


def _expected(what: str, found: object, choices: Iterable[str]) -> NoReturn:
    raise BadGrant(f"unknown {what} {str(found)[:64]!r}; expected one of {', '.join(choices)}")


def _names(where: str, value: object, max_length: int = MAX_NAME_LENGTH) -> list[str]:
    """Return a list of names; numbers become text, as ids of tasks do."""
    if not isinstance(value, list):
        raise BadGrant(f"{where} must be a list")
    if len(value) > MAX_NAMES:
        raise BadGrant(f"{where} may have {MAX_NAMES} items at most")
    names = []
    for item in value:
        if not isinstance(item, str | int) or isinstance(item, bool):
            raise BadGrant(f"{where} must be a list of texts")
        if not 0 < len(name := str(item)) <= max_length:
            raise BadGrant(f"each text in {where} must have 1 to {max_length} characters")
        names.append(name)
    return names


def _scope(verb: str, value: object) -> Scope:
    if not isinstance(value, dict):
        raise BadGrant(f"relay.{verb} must be an object")
    attributes: dict[str, Any] = {}
    for key, item in value.items():
        where = f"relay.{verb}.{key}"
        if key in _LISTS:
            names = _names(where, item, MAX_TOPIC if key == "topics" else MAX_NAME_LENGTH)
            attributes[key] = tuple(names) if key.endswith("prefixes") else frozenset(names)
        elif key in _FLAGS:
            if not isinstance(item, bool):
                raise BadGrant(f"{where} must be true or false")
            attributes[_FLAGS[key]] = item
        else:
            _expected(f"scope in relay.{verb}:", key, (*_LISTS, *_FLAGS))
    return Scope(**attributes)


def read_scopes(claim: object) -> Mapping[Verb, Scope]:
    """Read the claim ``relay``.

    Raises:
        BadGrant: It is malformed; the message says where. What is unknown is an error, since it would silently grant nothing.
    """
    if not isinstance(claim, dict):
        raise BadGrant("the claim `relay` must be an object")
    scopes = {}
    for name, value in claim.items():
        if name not in _VERBS:
            _expected("verb in the claim `relay`:", name, _VERBS)
        scopes[_VERBS[name]] = _scope(name, value)
    return MappingProxyType(scopes)


@lru_cache(256)
def _scopes_in(text: bytes) -> Mapping[Verb, Scope]:
    return read_scopes(msgspec.json.decode(text))


def _shared_scopes(claim: object) -> Mapping[Verb, Scope]:
    """Read the claim ``relay``, as `read_scopes` does. Tokens of equal scopes share them: many users have such as `owned`."""
    text = _encoded(claim)
    return _scopes_in(text) if len(text) <= _MAX_SHARED else read_scopes(claim)


def _read_mercure(claim: object) -> Mapping[Verb, Scope]:
    """Read Mercure's claim: ``{"subscribe": [selector, ...], "publish": [...]}``. Its payload does not matter.

    Raises:
        BadGrant: It is malformed; the message says where.
    """
    if not isinstance(claim, dict):
        raise BadGrant("the claim `mercure` must be an object")
    scopes = {}
    for name, verb in _MERCURE_VERBS.items():
        if claim.get(name) is not None:
            selectors = frozenset(_names(f"mercure.{name}", claim[name], MAX_TOPIC))
            scopes[verb] = Scope(everything=True) if ANY in selectors else Scope(topics=selectors)
    return MappingProxyType(scopes)


def _read_details(claim: object) -> Mapping[Verb, Scope]:
    """Read the claim ``authorization_details`` (RFC 9396), of which only the details of Mercure's draft 8 matter.

    Raises:
        BadGrant: One of them is malformed, or matches in another way than by the exact text.
    """
    if not isinstance(claim, list) or len(claim) > MAX_NAMES:
        raise BadGrant(f"the claim `authorization_details` must be a list of {MAX_NAMES} items at most")
    selectors: dict[Verb, set[str]] = {}
    for detail in claim:
        if not isinstance(detail, dict):
            raise BadGrant("each item of `authorization_details` must be an object")
        if detail.get("type") != _MERCURE_DETAIL:
            continue
        actions = _names("actions", detail.get("actions"))
        matchers = detail.get("topics")
        if not isinstance(matchers, list) or not all(isinstance(matcher, dict) for matcher in matchers):
            raise BadGrant("`topics` of a detail must be a list of objects")
        topics = _names("topics", [matcher.get("match") for matcher in matchers], MAX_TOPIC)
        for matcher, topic in zip(matchers, topics, strict=True):
            if topic != ANY and (matcher.get("match_type", "exact") != "exact" or is_template(topic)):
                raise BadGrant(
                    "topics of a detail are matched by their exact text here; use the claim `mercure` for templates"
                )
        for name, verb in _MERCURE_VERBS.items():
            if name in actions:
                selectors.setdefault(verb, set()).update(topics)
    return {
        verb: Scope(everything=True) if ANY in topics else Scope(topics=frozenset(topics))
        for verb, topics in selectors.items()
    }


def _scopes_of(claims: Mapping[str, Any]) -> Mapping[Verb, Scope]:
    """Read ``relay``, or ``mercure``, of a token's claims. Where there are both, they are added up."""
    scopes = _shared_scopes(claims["relay"]) if "relay" in claims else None
    if "mercure" not in claims and "authorization_details" not in claims:
        if scopes is None:
            raise BadGrant("the token has no claim `relay`, which says what its bearer may do, and no claim `mercure`")
        return scopes
    more: list[tuple[Verb, Scope]] = []
    if "mercure" in claims:
        more += _read_mercure(claims["mercure"]).items()
    if "authorization_details" in claims:
        more += _read_details(claims["authorization_details"]).items()
    both = dict(scopes or {})
    for verb, scope in more:
        former = both.get(verb, Scope())
        both[verb] = replace(
            former, everything=former.everything or scope.everything, topics=former.topics | scope.topics
        )
    return MappingProxyType(both)


def read_compact(text: str) -> Mapping[Verb, Scope]:
    """Read scopes in the compact form: words such as ``watch:task:demo``, ``list:owned``, ``publish:all``.

    Raises:
        BadGrant: A word is malformed; the message names it.
    """
    claim: dict[str, dict[str, Any]] = {}
    for word in text.split():
        verb, _, scope = word.partition(":")
        if verb not in _VERBS:
            _expected(f"verb in {word[:64]!r}:", verb, _VERBS)
        add_compact(claim.setdefault(verb, {}), scope)
    return read_scopes(claim)


def add_compact(claim: dict[str, Any], word: str) -> None:
    """Add one scope in the compact form, such as ``task:demo`` or ``owned``, to a verb's object of the claim.

    Raises:
        BadGrant: The word is malformed.
    """
    kind, colon, name = word.partition(":")
    if kind in _WORDS and colon:
        claim.setdefault(_WORDS[kind], []).append(name)
    elif word in _FLAGS:
        claim[word] = True
    else:
        _expected("scope", word, (*(f"{kind}:NAME" for kind in _WORDS), *_FLAGS))


def read_setting(text: str) -> Mapping[Verb, Scope]:
    """Read scopes from a setting: the claim ``relay`` as JSON, or the compact form.

    Raises:
        BadGrant: It is neither.
    """
    if not text.lstrip().startswith("{"):
        return read_compact(text)
    try:
        claim = msgspec.json.decode(text)
    except NOT_JSON as error:
        raise BadGrant(f"not JSON: {error}") from None
    return read_scopes(claim)


def _text(claims: Mapping[str, Any], name: str, where: str = "") -> str | None:
    """Return a claim that is a text; None if it is not there."""
    value = claims.get(name)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH):
        raise BadGrant(f"the claim `{where}{name}` must be a text of 1 to {MAX_NAME_LENGTH} characters")
    return value


def read_seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a claim that is a time, in seconds of the Unix epoch; None if it is not there.

    Raises:
        BadGrant: It is no time.
    """
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, _NUMBER) or isinstance(value, bool) or not abs(value) <= _MAX_SECONDS:
        raise BadGrant(f"the claim `{name}` must be a number of seconds since 1970")
    return float(value)


def _shared_by(value: object) -> SharedBy:
    if not isinstance(value, dict):
        raise BadGrant("the claim `shared_by` must be an object")
    return SharedBy(_text(value, "sub", "shared_by."), _text(value, "jti", "shared_by."))


def read_claims(claims: Mapping[str, Any]) -> Grant:
    """Read a grant from the claims of a token, whose signature and times were checked before.

    Args:
        claims: ``relay`` or ``mercure``, and where they are there ``sub``, ``groups``, ``iat``, ``exp``, ``jti`` and
            ``shared_by``. Others do not matter.

    Raises:
        BadGrant: A claim is malformed, or there is neither of these; the message says which.
    """
    groups, shared_by = claims.get("groups"), claims.get("shared_by")
    return Grant(
        _scopes_of(claims),
        _text(claims, "sub"),
        _NO_GROUPS if groups is None else frozenset(_names("groups", groups)),
        read_seconds(claims, "iat"),
        read_seconds(claims, "exp"),
        _text(claims, "jti"),
        None if shared_by is None else _shared_by(shared_by),
    )


def _claim_of(scope: Scope) -> dict[str, Any]:
    claim: dict[str, Any] = {key: list(names) for key in _LISTS if (names := getattr(scope, key))}
    return claim | {key: True for key, attribute in _FLAGS.items() if getattr(scope, attribute)}


def claims_of(grant: Grant) -> dict[str, Any]:
    """Return the claims from which `read_claims` reads an equal grant."""
    claims: dict[str, Any] = {"relay": {verb.value: _claim_of(scope) for verb, scope in grant.scopes.items()}}
    if grant.groups:
        claims["groups"] = sorted(grant.groups)
    if grant.shared_by is not None:
        names = {"sub": grant.shared_by.subject, "jti": grant.shared_by.token_id}
        claims["shared_by"] = {name: value for name, value in names.items() if value is not None}
    more = {"sub": grant.subject, "iat": grant.issued_at, "exp": grant.expires_at, "jti": grant.token_id}
    return claims | {name: value for name, value in more.items() if value is not None}
