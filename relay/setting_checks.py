"""Checks of single settings whose form pydantic does not know: origins, hosts, networks, API keys, and the URL of Redis."""

from ipaddress import ip_network
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from relay_wire.redis_urls import parse

from relay.core.api_keys import ApiKey, read_keys
from relay.core.errors import BadGrant

#: Longest file of settings that is read, in bytes.
_MAX_FILE = 1024 * 1024

#: Options of redis-py that the URL may set. The others change what replies look like, or are unknown to it.
_URL_OPTIONS = frozenset({
    "client_name", "credential_provider", "db", "health_check_interval", "lib_name", "lib_version", "max_connections",
    "password", "protocol", "retry_on_timeout", "sentinel_password", "sentinel_username", "socket_connect_timeout",
    "socket_keepalive", "socket_timeout", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs",
    "ssl_certfile", "ssl_check_hostname", "ssl_ciphers", "ssl_keyfile", "ssl_min_version", "ssl_password", "timeout",
    "username",
})  # fmt: skip

_DEFAULT_PORTS = {"http": 80, "https": 443}


def checked_redis_url(url: str) -> None:
    """Check what a URL of Redis says, further than redis-py does.

    Raises:
        ValueError: It is wrong. The message says how, and has no password in it.
    """
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[2]
    database = parts.path.strip("/").rpartition("/")[2] if kind == "sentinel" else parts.path.strip("/")
    is_missing = kind == "sentinel" and "/" not in parts.path.strip("/")
    if parts.scheme != "unix" and database and not is_missing and not database.isdigit():
        raise ValueError(f"the database must be a number, not {database[:32]!r}")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _URL_OPTIONS:
            raise ValueError(f"Relay does not take the option {name[:32]!r}")
        if name == "db" and not value.isdigit():
            raise ValueError(f"the database must be a number, not {value[:32]!r}")
    parse(url)


def checked_bind(bind: str) -> str:
    """Return an address to listen on, as HOST:PORT.

    Raises:
        ValueError: It is none.
    """
    host, _, port = bind.rpartition(":")
    is_ipv6 = host.startswith("[") and host.endswith("]")
    if (
        not host
        or (":" in host and not is_ipv6)
        or not port.isascii()
        or not port.isdigit()
        or not 0 < int(port) < 65_536
    ):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:9100 or [::1]:9100")
    return bind


def text_of(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ValueError: It cannot be read, is too long, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise ValueError(f"{path}: longer than {_MAX_FILE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not valid UTF-8") from None


def read_entries(text: str, separators: str) -> list[ApiKey]:
    """Read entries of API keys; see `relay.core.api_keys`.

    Raises:
        ValueError: One is malformed. The message shows no part of it that may be secret.
    """
    try:
        return read_keys(text, separators)
    except BadGrant as error:
        raise ValueError(str(error)) from None


def normal_origin(origin: str) -> str:
    """Return an origin as browsers send it.

    Raises:
        ValueError: It is none, so that it would never match.
    """
    if origin in ("*", "null", "same-origin"):
        return origin
    parts = urlsplit(origin)
    if not parts.scheme or not parts.netloc or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{origin!r} is no origin; one is scheme://host or scheme://host:port, with nothing behind it")
    if "*" in origin:
        raise ValueError(f"{origin!r}: a * stands alone and is any origin; patterns are not known")
    host = parts.netloc.lower()
    if parts.port is not None and parts.port == _DEFAULT_PORTS.get(parts.scheme):
        host = host.removesuffix(f":{parts.port}")
    return f"{parts.scheme.lower()}://{host}"


def normal_network(network: str) -> str:
    """Return an address or a network of trusted proxies in its usual form; ``unix`` stands for itself.

    Raises:
        ValueError: It is none of these.
    """
    if network == "unix":
        return network
    try:
        return str(ip_network(network))
    except ValueError as error:
        raise ValueError(f"{error}; give an address, a network such as 10.0.0.0/8, or unix") from None


def normal_host(host: str) -> str:
    """Return a name of the Host header, in lower case.

    Raises:
        ValueError: It has a port, a scheme or a pattern, so that it would never match.
    """
    is_address = host.startswith("[") and host.endswith("]")
    if host != "*" and (not host or (not is_address and any(mark in host for mark in ":/*@ "))):
        raise ValueError(f"{host!r} is no host; give a name or an address without scheme and port ([::1] in brackets)")
    return host.lower()
