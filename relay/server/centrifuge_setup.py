"""From the settings to what the clients of the Centrifuge protocol have in common."""

from importlib.metadata import version
from urllib.parse import parse_qs

from relay.config import Settings
from relay.core.channels import ChannelPatterns
from relay.core.client_channels import ClientChannels, read_namespaces
from relay.protocols.centrifuge import CentrifugeProtocol
from relay.protocols.centrifuge_client import CentrifugeServer
from relay.protocols.centrifuge_json import JsonCodec
from relay.protocols.centrifuge_protobuf import ProtobufCodec
from relay.server.endpoints import Opening

JSON, PROTOBUF = JsonCodec(), ProtobufCodec()


def centrifuge_server(settings: Settings, named: ChannelPatterns) -> CentrifugeServer:
    """Return what the clients of one relay have in common.

    Args:
        settings: Namespaces, the interval of pings, and the limit of subscriptions.
        named: The operator's extra channels.
    """
    namespaces = () if settings.channel_namespaces is None else read_namespaces(settings.channel_namespaces)
    return CentrifugeServer(
        ClientChannels(named, namespaces),
        settings.heartbeat_interval,
        f"Relay {version('trio-relay')}",
        settings.max_subscriptions,
    )


def centrifuge_protocol(server: CentrifugeServer, opening: Opening) -> CentrifugeProtocol:
    """Return the protocol of a client, in the format that it asks for by its subprotocol or its query."""
    query = parse_qs(opening.query.decode("latin1"))
    formats = [*query.get("format", ()), *query.get("cf_protocol", ())]
    is_binary = opening.subprotocol == "centrifuge-protobuf" or "protobuf" in formats
    return CentrifugeProtocol(server, PROTOBUF if is_binary else JSON)
