"""From the settings to what the clients of the Centrifuge protocol have in common."""

from importlib.metadata import version

from relay.config import Settings
from relay.core.channels import ChannelPatterns
from relay.core.client_channels import ClientChannels, read_namespaces
from relay.protocols.centrifuge_client import CentrifugeServer
from relay.protocols.centrifuge_json import JsonCodec

JSON = JsonCodec()


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
