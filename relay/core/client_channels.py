"""Channels as Centrifuge clients name them, and the options of their namespaces.

``task:<id>`` is a task, ``general`` what concerns everyone. Any other name is an extra channel, if the operator names it there
or configures its namespace, which is what stands before the first colon.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from relay_wire.channels import GENERAL, MAX_NAME_LENGTH, TASK_PREFIX

from relay.core.channels import ChannelPatterns
from relay.core.extra_channels import channel_of, name_of
from relay.core.grants import Grant, Scope, Verb, with_scope
from relay.core.json_errors import NOT_JSON

#: Most namespaces that can be configured.
MAX_NAMESPACES = 256


class Namespace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of one namespace.

    Attributes:
        name: What stands before the first colon of its channels; empty for channels without one, such as ``general``.
        presence: Who is subscribed is kept; clients that may follow the channel can ask for it.
        join_leave: Clients that ask for it are notified who joins and leaves.
        force_push_join_leave: All clients are.
        force_recovery: Every subscription has a position and can be resumed, whether the client asks for that or not.
        force_recovery_mode: "cache" gives a client that recovers the present state of a task instead of what it missed.
        allow_subscribe_for_client: Every client with a user may subscribe, without a token for the channel.
        allow_subscribe_for_anonymous: So may clients without a user.
        allow_publish_for_client: Clients may publish whose grant covers it, and all clients with a user.
        allow_user_limited_channels: Names may end with ``#`` and the users that may subscribe.
    """

    name: str = ""
    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    force_recovery: bool = True
    force_recovery_mode: Literal["stream", "cache"] = "stream"
    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    allow_publish_for_client: bool = False
    allow_user_limited_channels: bool = False


def read_namespaces(text: str) -> tuple[Namespace, ...]:
    """Read namespaces from a setting: a JSON list of objects.

    Raises:
        ValueError: It is none, or an option is unknown; the message says which.
    """
    try:
        namespaces = msgspec.json.decode(text, type=tuple[Namespace, ...])
    except NOT_JSON as error:
        raise ValueError(f"must be a JSON list of namespaces: {error}") from None
    names = [namespace.name for namespace in namespaces]
    if len(names) > MAX_NAMESPACES or len(set(names)) < len(names):
        raise ValueError(f"each name may be there once, and {MAX_NAMESPACES} at most")
    for namespace in namespaces:
        if not namespace.name.isascii() or set(namespace.name) & set(":#$"):
            raise ValueError(f"{namespace.name[:64]!r}: the name of a namespace is ASCII without `:`, `#` and `$`")
        if namespace.force_recovery_mode == "cache" and namespace.name != TASK_PREFIX[:-1]:
            raise ValueError("force_recovery_mode: only the namespace `task` can have `cache`: only tasks have a state")
    return namespaces


def namespace_name(channel: str) -> str:
    """Return the name of a channel's namespace; empty where it has none."""
    before, colon, _ = channel.removeprefix("$").partition(":")
    return before if colon else ""


def channel_of_name(name: str) -> str:
    """Return the channel, within Relay, that a Centrifuge client names."""
    return name if name == GENERAL or name.startswith(TASK_PREFIX) else channel_of(name)


def name_of_channel(channel: str) -> str:
    """Return the name by which Centrifuge clients know a channel."""
    return name_of(channel)


def scope_of(name: str) -> Scope:
    """Return a scope of one channel, by the name that Centrifuge clients know."""
    if name == GENERAL:
        return Scope(general=True)
    if name.startswith(TASK_PREFIX):
        return Scope(tasks=frozenset((name.removeprefix(TASK_PREFIX),)))
    return Scope(channels=frozenset((name,)))


def _scope_of_namespace(name: str) -> Scope:
    if name == TASK_PREFIX[:-1]:
        return Scope(prefixes=("",))
    if name == "":
        return Scope(general=True, plain_channels=True)
    return Scope(channel_prefixes=(f"{name}:",))


class ClientChannels:
    """The channels that Centrifuge clients may name.

    Args:
        named: The operator's extra channels.
        namespaces: The namespaces that are configured; `task` and that of channels without one exist by themselves.
    """

    def __init__(self, named: ChannelPatterns, namespaces: Iterable[Namespace] = ()) -> None:
        self._named = named
        task = TASK_PREFIX[:-1]
        self._namespaces: Mapping[str, Namespace] = {
            task: Namespace(task),
            "": Namespace(),
        } | {namespace.name: namespace for namespace in namespaces}
        self._other = Namespace()
        #: What namespaces allow every client with a user, and every client without one.
        self._allowed = _allowed_by(self._namespaces.values(), anonymous=False)
        self._allowed_to_anonymous = _allowed_by(self._namespaces.values(), anonymous=True)

    def find(self, name: str) -> Namespace | None:
        """Return the options of a channel; None where there is no such channel."""
        namespace = self._namespaces.get(namespace_name(name))
        if name == GENERAL or (namespace is not None and namespace.name != ""):
            return namespace
        return (namespace or self._other) if name in self._named else None

    @staticmethod
    def is_valid(name: str) -> bool:
        """Whether a channel may have this name."""
        rest = name.removeprefix(TASK_PREFIX) if name.startswith(TASK_PREFIX) else name
        return 0 < len(rest) <= MAX_NAME_LENGTH and name.isprintable()

    def widened(self, grant: Grant) -> Grant:
        """Return a grant with what namespaces allow each client, besides what it has already."""
        for verb, scope in self._allowed_to_anonymous if grant.subject is None else self._allowed:
            grant = with_scope(grant, verb, scope)
        return grant


def _allowed_by(namespaces: Iterable[Namespace], *, anonymous: bool) -> list[tuple[Verb, Scope]]:
    allowed: list[tuple[Verb, Scope]] = []
    for namespace in namespaces:
        scope = _scope_of_namespace(namespace.name)
        if namespace.allow_subscribe_for_anonymous if anonymous else namespace.allow_subscribe_for_client:
            allowed.append((Verb.WATCH, scope))
        if namespace.allow_publish_for_client and not anonymous:
            allowed.append((Verb.PUBLISH, scope))
    return allowed


def may_follow(name: str, user: str | None, namespace: Namespace) -> bool:
    """Whether a name itself says that a user may subscribe: by the users that stand behind its last ``#``."""
    _, mark, users = name.rpartition("#")
    return bool(mark) and namespace.allow_user_limited_channels and user is not None and user in users.split(",")
