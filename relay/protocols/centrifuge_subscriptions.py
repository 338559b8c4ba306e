"""The subscriptions of one Centrifuge client: those that it asks for, and those that its token gives it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from relay.core.batches import Encoding
from relay.core.client_channels import Namespace, channel_of_name, may_follow, name_of_channel
from relay.core.client_orders import SubscribeOrder, UnsubscribeOrder
from relay.core.closecodes import Close
from relay.core.connection_claims import ConnectionGrant, ServerSubscription, channel_grant
from relay.core.errors import Unauthenticated, Unverified
from relay.core.grants import Grant
from relay.core.json_errors import NOT_JSON
from relay.core.membership import Member
from relay.core.recovery import SubscribeResult
from relay.protocols.base import Command, End, Join, Permit, Refusal, Reply, Subscribe, Unsubscribe, VerifyToken
from relay.protocols.centrifuge_client import CentrifugeClient, with_grace
from relay.protocols.centrifuge_codes import ERROR_OF, UNSUBSCRIBE_OF, ErrorCode
from relay.protocols.centrifuge_commands import (
    ChannelRequest,
    Recovery,
    SubRefreshRequest,
    SubscribeRequest,
    one_line,
    position_of,
)
from relay.protocols.centrifuge_results import subscribe_result

#: The flag of a subscribe that is to be refused where what was missed cannot be recovered.
_REJECT_UNRECOVERED = 2

#: What a protocol is answered about a token.
Verified = Grant | Unauthenticated | Unverified


class CentrifugeSubscriptions:
    """What one client follows.

    Args:
        client: The client.
    """

    __slots__ = ("_client", "_given", "_subscribed")

    def __init__(self, client: CentrifugeClient) -> None:
        self._client = client
        #: The channels that are followed, by the names that the client knows, and whether the client knows that it may recover;
        #: and those of them that its token gave it.
        self._subscribed: dict[str, bool] = {}
        self._given: set[str] = set()

    # Those that the token gives.

    def give(
        self, wanted: dict[str, ServerSubscription], recoveries: dict[str, Recovery], subs: dict[str, Any]
    ) -> list[Subscribe]:
        """Return the subscriptions that a client gets when it connects.

        Args:
            wanted: Their channels.
            recoveries: What it has of some of them already.
            subs: Where the result of each is put that it may have.
        """
        commands = []
        for name, given in list(wanted.items())[: self._client.server.max_channels]:
            asked = SubscribeRequest(channel=name)
            recovery = recoveries.get(name)
            if recovery is not None:
                asked.recover, asked.offset, asked.epoch = recovery.recover, recovery.offset, recovery.epoch
            channels = self._client.server.channels
            namespace = channels.find(name) if channels.is_valid(name) else None
            if namespace is not None:
                commands.append(self._give(asked, namespace, given, subs))
        return commands

    def join(self, name: str, info: bytes | None, *, was_requested: bool) -> Iterable[Command]:
        """Return what makes the client present in a channel that it has just begun to follow.

        Args:
            name: The channel.
            info: What others see of it in this channel only, as JSON.
            was_requested: It has asked for the joins and leaves of others.
        """
        namespace = self._client.server.channels.find(name)
        if name not in self._subscribed or namespace is None:
            return
        notifies_client = namespace.force_push_join_leave or (namespace.join_leave and was_requested)
        if namespace.presence or namespace.join_leave or namespace.force_push_join_leave:
            member = Member(self._client.info(info), namespace.join_leave or namespace.force_push_join_leave)
            yield Join(channel_of_name(name), member, self._client.codec.encodings.own if notifies_client else None)

    def _give(
        self, request: SubscribeRequest, namespace: Namespace, given: ServerSubscription, subs: dict[str, Any]
    ) -> Subscribe:
        """Return the subscription to a channel that the client gets without asking; its answer goes to `subs`."""
        name = request.channel

        def answer(result: SubscribeResult | None) -> Iterable[bytes]:
            assert result is not None
            self._subscribed[name] = True
            self._given.add(name)
            subs[name] = subscribe_result(request, namespace, result, self._client.codec, whole_values=True)
            if given.data is not None:
                subs[name]["data"] = one_line(given.data)
            return ()

        def refuse(code: str, message: str) -> Refusal:  # noqa: ARG001 - such a channel is left out
            return Refusal(code, b"", counts=False)

        return _command(request, namespace, answer, refuse, self._client.codec.encodings.given)

    # Subscribing.

    def subscribe(self, id: int, request: SubscribeRequest) -> Iterable[Command]:
        """Return what a ``subscribe`` asks for."""
        name = request.channel
        if name == "" or request.delta not in ("", "fossil"):
            return (End(Close.BAD_REQUEST),)
        refusal = self._subscribe_refusal(request)
        if refusal is not None:
            return (self._client.error(id, refusal),)
        namespace = self._client.server.channels.find(name)
        if namespace is None:
            return (self._client.error(id, ErrorCode.UNKNOWN_CHANNEL),)
        if request.token != "":
            return (VerifyToken(request.token, partial(self._on_subscription_verified, id, request, namespace)),)
        if name.startswith("$"):
            return (self._client.error(id, ErrorCode.PERMISSION_DENIED),)
        own = channel_grant(name, None) if may_follow(name, self._client.grant.subject, namespace) else None
        return self._subscribe_with(id, request, namespace, own)

    def _subscribe_refusal(self, request: SubscribeRequest) -> ErrorCode | None:
        """Return why a subscribe cannot be carried out, whatever the channel is; None when it can."""
        if not self._client.server.channels.is_valid(request.channel) or request.tf is not None:
            return ErrorCode.BAD_REQUEST
        if request.type != 0:
            return ErrorCode.NOT_AVAILABLE
        # A client that was told that its position is lost subscribes again: it recovers, if it was told that it can.
        name = request.channel
        if name in self._given or (self._subscribed.get(name, False) and not request.recover):
            return ErrorCode.ALREADY_SUBSCRIBED
        return None

    def _on_subscription_verified(
        self,
        id: int,
        request: SubscribeRequest,
        namespace: Namespace,
        grant: Verified,
    ) -> Iterable[Command]:
        refusal = self._token_refusal(request.channel, grant)
        if isinstance(refusal, Close):
            return (End(refusal),)
        if refusal is not None:
            return (self._client.error(id, refusal),)
        assert isinstance(grant, ConnectionGrant)
        return self._subscribe_with(id, request, namespace, grant)

    def _token_refusal(self, name: str, grant: Verified) -> ErrorCode | Close | None:
        """Return why a subscription's token does not hold for a channel; None when it does."""
        if isinstance(grant, Unverified):
            return ErrorCode.INTERNAL
        if isinstance(grant, Unauthenticated):
            return ErrorCode.TOKEN_EXPIRED if grant.close is Close.TOKEN_EXPIRED else ErrorCode.PERMISSION_DENIED
        if not isinstance(grant, ConnectionGrant):
            return ErrorCode.PERMISSION_DENIED
        is_own = grant.subject == self._client.grant.subject and grant.client in (None, self._client.id)
        return None if grant.channel == name and is_own else Close.INVALID_TOKEN

    def _subscribe_with(
        self, id: int, request: SubscribeRequest, namespace: Namespace, own: Grant | None
    ) -> Iterator[Command]:
        """Subscribe to a channel that exists.

        Args:
            id: The command's id.
            request: The command.
            namespace: The channel's options.
            own: A grant for this subscription alone.
        """
        name = request.channel
        is_refused = False
        wants_deltas = _wants_deltas(request.data)
        more = self._client.lifetime(own) if own is not None else {}
        if isinstance(own, ConnectionGrant) and own.data is not None:
            more["data"] = one_line(own.data)

        def answer(result: SubscribeResult | None) -> Iterable[bytes]:
            nonlocal is_refused
            assert result is not None
            found = subscribe_result(request, namespace, result, self._client.codec, whole_values=not wants_deltas)
            if request.flag & _REJECT_UNRECOVERED and found.get("was_recovering") and not found.get("recovered"):
                is_refused = True
                return (self._client.error_payload(id, ErrorCode.UNRECOVERABLE),)
            self._subscribed[name] = found.get("recoverable", False)
            return (self._client.codec.reply(id, "subscribe", found | more),)

        def refuse(code: str, message: str) -> Refusal:  # noqa: ARG001 - errors of this protocol have texts of their own
            return Refusal(code, self._client.error_payload(id, ERROR_OF.get(code, ErrorCode.INTERNAL)), counts=False)

        encodings = self._client.codec.deltas if wants_deltas else self._client.codec.encodings
        self._subscribed.pop(name, None)
        grant = None if own is None else with_grace(own, own)
        command = _command(request, namespace, answer, refuse, encodings.own, grant)
        yield command
        if is_refused:
            yield Unsubscribe(command.channel, b"")
        info = own.info if isinstance(own, ConnectionGrant) else None
        yield from self.join(name, info, was_requested=request.join_leave)

    def unsubscribe(self, id: int, request: ChannelRequest) -> Iterable[Command]:
        """Return what an ``unsubscribe`` asks for."""
        if request.channel == "":
            return (End(Close.BAD_REQUEST),)
        payload = self._client.codec.reply(id, "unsubscribe", {})
        if request.channel not in self._subscribed:
            return (Reply(payload),)
        del self._subscribed[request.channel]
        self._given.discard(request.channel)
        return (Unsubscribe(channel_of_name(request.channel), payload),)

    def sub_refresh(self, id: int, request: SubRefreshRequest) -> Iterable[Command]:
        """Return what a ``sub_refresh`` asks for."""
        if request.token == "":
            return (self._client.error(id, ErrorCode.BAD_REQUEST),)
        return (VerifyToken(request.token, partial(self._on_sub_refresh_verified, id, request)),)

    def _on_sub_refresh_verified(self, id: int, request: SubRefreshRequest, grant: Verified) -> Iterable[Command]:
        # An old client leaves out the channel, which the token has.
        name = request.channel or (grant.channel if isinstance(grant, ConnectionGrant) else None) or ""
        refusal = self._token_refusal(name, grant)
        if refusal is ErrorCode.PERMISSION_DENIED:
            refusal = Close.INVALID_TOKEN
        if isinstance(refusal, Close):
            return (End(refusal),)
        if refusal is not None:
            return (self._client.error(id, refusal),)
        if name not in self._subscribed:
            return (self._client.error(id, ErrorCode.PERMISSION_DENIED),)
        assert isinstance(grant, ConnectionGrant)
        return (
            Permit(channel_of_name(name), with_grace(grant, grant)),
            self._client.reply(id, "sub_refresh", self._client.lifetime(grant)),
        )

    # What the server's API orders.

    def on_subscribe_order(self, order: SubscribeOrder) -> Iterator[Command]:
        """Return the subscription that the client is given while it is connected."""
        name, channels = order.channel, self._client.server.channels
        namespace = channels.find(name) if channels.is_valid(name) else None
        if namespace is None or name in self._subscribed:
            return
        request = SubscribeRequest(channel=name)
        if order.offset is not None:
            request.recover, request.offset, request.epoch = True, order.offset, order.epoch

        def answer(result: SubscribeResult | None) -> Iterable[bytes]:
            assert result is not None
            self._subscribed[name] = True
            self._given.add(name)
            position = result.position
            push: dict[str, Any] = {"recoverable": True, "positioned": True}
            push |= {"epoch": position.epoch, "offset": order.offset if result.recovered else position.offset}
            if order.data:
                push["data"] = one_line(order.data.encode())
            return (self._client.codec.push({"channel": name, "subscribe": push}),)

        def refuse(code: str, message: str) -> Refusal:  # noqa: ARG001 - nobody has asked
            return Refusal(code, b"", counts=False)

        own, encoding = channel_grant(name, order.expires_at), self._client.codec.encodings.given
        # There is no place in the push for what was missed: it follows.
        yield _command(request, namespace, answer, refuse, encoding, own, updates_in_answer=False)
        yield from self.join(name, order.info.encode() or None, was_requested=False)

    def on_unsubscribe_order(self, order: UnsubscribeOrder) -> Iterable[Command]:
        """Return the end of a subscription."""
        if order.channel not in self._subscribed:
            return ()
        channel = channel_of_name(order.channel)
        return (Unsubscribe(channel, self.refuse("unsubscribed", channel).payload),)

    def refuse(self, code: str, channel: str) -> Refusal:
        """Return the push that a subscription has ended."""
        name = name_of_channel(channel)
        self._subscribed.pop(name, None)
        self._given.discard(name)
        number, reason = UNSUBSCRIBE_OF.get(code, UNSUBSCRIBE_OF["forbidden"])
        push = self._client.codec.push({"channel": name, "unsubscribe": {"code": number, "reason": reason}})
        return Refusal(code, push, counts=False)


def _command(
    request: SubscribeRequest,
    namespace: Namespace,
    answer: Callable[[SubscribeResult | None], Iterable[bytes]],
    refuse: Callable[[str, str], Refusal],
    encoding: Encoding,
    grant: Grant | None = None,
    *,
    updates_in_answer: bool = True,
) -> Subscribe:
    since = None
    if request.recover and namespace.force_recovery_mode == "stream":
        since = position_of(request.offset, request.epoch) or position_of(0, "_")
    return Subscribe(
        channel_of_name(request.channel),
        encoding,
        answer,
        since,
        requires_position=True,
        updates_in_answer=updates_in_answer,
        grant=grant,
        refuse=refuse,
    )


def _wants_deltas(data: msgspec.Raw) -> bool:
    """Whether a client says, in the data of its subscribe, that it takes operations on fields."""
    try:
        value = msgspec.json.decode(data, type=dict[str, Any]) if bytes(data) else {}
    except NOT_JSON:
        return False
    return value.get("deltas") is True
