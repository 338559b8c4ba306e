"""Settings: read once from the environment and ``.env``, checked, frozen, passed in.

``REDIS_*`` are the names that services already use; everything else begins with ``RELAY_``.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import Field, FiniteFloat, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from relay_wire import keys

from relay.core.api_keys import ApiKeys
from relay.core.client_channels import read_namespaces
from relay.core.errors import ConfigError
from relay.grant_settings import LISTS, GrantSettings, split
from relay.pace_settings import PaceSettings
from relay.setting_checks import (
    checked_bind,
    checked_redis_url,
    normal_host,
    normal_network,
    normal_origin,
    read_entries,
    text_of,
)

#: Read from the directory in which the server is started, where there is one.
_ENV_FILE = ".env"

_KIB = 1024
_MIB = 1024 * _KIB
_YEAR = 366 * 86_400
_DECADE = 10 * _YEAR

#: Command, signal and build variables that begin with RELAY_ without being settings of the server.
_NOT_SETTINGS = frozenset({"RELAY_URL", "RELAY_SERVICE_HOST", "RELAY_SERVICE_PORT"})


class RedisSettings(BaseSettings):
    """Where Redis is. With nothing set, an embedded one is started."""

    model_config = SettingsConfigDict(
        env_prefix="REDIS_",
        env_file=_ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    url: SecretStr | None = Field(
        None, description="URL of the server, its Sentinels or the cluster (docs/redis.md); wins over the rest"
    )
    host: str | None = Field(None, description="host name or address", min_length=1)
    port: int = Field(6379, ge=1, le=65535, description="TCP port")
    db: int = Field(0, ge=0, description="database number")
    username: str | None = Field(None, description="ACL user")
    password: SecretStr | None = Field(None, description="password")
    ssl: bool = Field(False, description="use TLS")
    ssl_ca_certs: Path | None = Field(None, description="PEM file of the authorities to trust")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.url is not None:
            try:
                checked_redis_url(self.url.get_secret_value())
            except ValueError as error:
                raise ValueError(f"url: {error}") from None
        if self.ssl_ca_certs is not None and not self.ssl_ca_certs.is_file():
            raise ValueError("ssl_ca_certs: no such file")
        return self

    def configured_url(self) -> str | None:
        """The URL to connect to, with its password, or None when no Redis is configured."""
        if self.url is not None:
            return self.url.get_secret_value()
        if self.host is None:
            return None
        password = self.password.get_secret_value() if self.password else ""
        login = (
            f"{quote(self.username or '', safe='')}:{quote(password, safe='')}@" if password or self.username else ""
        )
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.ssl else 'redis'}://{login}{host}:{self.port}/{self.db}"


class Settings(PaceSettings, GrantSettings):
    """Everything else. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="RELAY_", env_file=_ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    profile: Literal["development", "production"] = Field(
        "development", description="with `production` the relay does not start on an unsafe default (docs/grants.md)"
    )
    admin_bind: str | None = Field(
        None,
        description="HOST:PORT for operators: `/metrics`, `/api/status`, the list of all tasks, which then answer nowhere else",
    )
    worker_timeout: FiniteFloat = Field(
        15.0, ge=3, le=_YEAR, description="a worker whose event loop does not turn for this long is replaced"
    )
    log_level: str = Field("INFO", pattern="(?i)^(debug|info|warning|error|critical)$", description="log level")
    cleartext_http2: bool = Field(False, description="speak HTTP/2 without TLS, too")
    hijack_sockets: bool = Field(True, description="hijack sockets from Hypercorn where that is possible")
    api_prefix: str = Field("/api", description="path before `/tasks` of the HTTP API")
    centrifugo_api_prefix: str = Field(
        "/centrifugo/api", description="path before the methods of Centrifugo's server API (docs/centrifugo-api.md)"
    )
    page: bool = Field(True, description="serve the page with all tasks at `/`")

    traces: bool = Field(
        False, description="export OpenTelemetry traces; `OTEL_*` variables say where to (docs/traces.md)"
    )
    trace_names: bool = Field(False, description="put the names of channels, and so the ids of tasks, into traces")

    redis_timeout: FiniteFloat = Field(2.0, gt=0, le=60, description="deadline of every Redis call")
    redis_max_connections: int = Field(32, ge=2, le=10_000, description="size of the connection pool")
    extra_channels: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="more Redis channels to serve: names or patterns, separated by commas"
    )
    channel_namespaces: str | None = Field(
        None,
        description="options of channels by namespace, as a JSON list, for Centrifuge clients (docs/centrifuge.md)",
    )
    wait_replicas: int = Field(
        0, ge=0, le=16, description="replicas that must have an update of `relay publish` before it counts as published"
    )
    redis_health_interval: FiniteFloat = Field(
        1.0, gt=0, le=60, description="seconds between checks of the subscription"
    )

    history_size: int = Field(1000, ge=1, le=100_000, description="updates kept for each channel")
    history_ttl: int = Field(3600, ge=1, le=_DECADE, description="how long they are kept")
    history_meta_ttl: int = Field(
        7 * 86400, ge=1, le=_DECADE, description="how long positions are valid after the last update"
    )
    task_state_ttl: int = Field(
        86400, ge=1, le=_DECADE, description="how long a task's state is kept after its last update"
    )
    terminal_state_ttl: int = Field(3600, ge=1, le=_DECADE, description="how long a task that has ended is kept")
    max_state_bytes: int = Field(
        512 * _KIB, ge=128, description="largest state of a task; an update that would make it larger is refused"
    )
    max_tasks: int = Field(100_000, ge=1, description="tasks in the list; the least recently active are left out")
    task_stall_seconds: FiniteFloat = Field(
        60.0, gt=0, le=_YEAR, description="a task in progress is stalled after this silence"
    )

    max_clients: int = Field(18_000, ge=1, description="clients per process")
    api_keys: SecretStr | None = Field(
        None, description="keys of services, NAME:SHA256:SCOPES, separated by semicolons; `relay key create` makes them"
    )
    api_keys_file: Path | None = Field(None, description="file with more such keys, one in a line; # begins a comment")
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="addresses and networks of proxies whose `Forwarded` or `X-Forwarded-For` names the client, separated by "
        "commas; `unix` is a Unix socket",
    )
    max_clients_per_address: int = Field(
        0, ge=0, description="clients of one IP address, or of one IPv6 network (/64), per process; 0 is no limit"
    )
    connect_rate_per_address: FiniteFloat = Field(
        0.0, ge=0, le=1e6, description="connects per second of one address, ten times as many at once; 0 is no limit"
    )
    max_subscriptions_per_address: int = Field(
        0, ge=0, description="subscriptions of all clients of one address together; 0 is no limit"
    )
    message_rate_per_address: FiniteFloat = Field(
        0.0,
        ge=0,
        le=1e6,
        description="messages and HTTP requests per second of one address, ten times as many at once; 0 is no limit",
    )
    max_clients_per_subject: int = Field(
        0, ge=0, description="clients of one `sub` of grants, per process; 0 is no limit"
    )
    connect_rate_per_subject: FiniteFloat = Field(0.0, ge=0, le=1e6, description="the same as for an address")
    max_subscriptions_per_subject: int = Field(0, ge=0, description="the same as for an address")
    message_rate_per_subject: FiniteFloat = Field(0.0, ge=0, le=1e6, description="the same as for an address")
    max_subscriptions: int = Field(256, ge=1, description="subscriptions per client")
    max_message_bytes: int = Field(64 * _KIB, ge=128, description="longest message of a client")
    max_client_errors: int = Field(16, ge=1, description="malformed messages before a client is dropped")
    max_update_bytes: int = Field(256 * _KIB, ge=128, description="longest published update")
    strict_publishes: bool = Field(
        False, description="refuse plain publishes in forms that only older services use (docs/protocol.md)"
    )
    coalesce_after: int = Field(64, ge=1, description="messages that wait for one client before updates are coalesced")
    queue_messages: int = Field(8192, ge=1, description="messages that may wait for one client")
    queue_bytes: int = Field(_MIB, ge=_KIB, description="bytes that may wait for one client")
    queue_max_age: FiniteFloat = Field(
        10.0, gt=0, le=_YEAR, description="how long a client may read nothing while messages wait for it"
    )
    handshake_timeout: FiniteFloat = Field(10.0, gt=0, le=_YEAR, description="from the request to the open session")
    message_timeout: FiniteFloat = Field(
        10.0,
        gt=0,
        le=_YEAR,
        description="from the first to the last byte of a client's message, or of a request's body",
    )
    heartbeat_interval: FiniteFloat = Field(25.0, gt=0, le=_YEAR, description="between two heartbeats to a client")
    dead_peer_timeout: FiniteFloat = Field(
        20.0, gt=0, le=86_400, description="unacknowledged for this long: the peer is gone"
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",),
        description="browser origins that may connect, separated by commas; `*` is any, `same-origin` only that of "
        "`RELAY_ALLOWED_HOSTS`",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="names in the Host header, without port, separated by commas; `*` is any"
    )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        lists = ("extra_channels", "allowed_origins", "allowed_hosts", "trusted_proxies", *LISTS)
        return {name: split(value) if name in lists else value for name, value in values.items()}

    @field_validator("allowed_origins", mode="after")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normal_origin(origin) for origin in origins)

    @field_validator("extra_channels", mode="after")
    @classmethod
    def _channels(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if pattern.startswith(keys.PREFIX):
                raise ValueError(f"{pattern!r}: what begins with {keys.PREFIX} is Relay's own")
        return patterns

    @field_validator("channel_namespaces")
    @classmethod
    def _are_namespaces(cls, value: str | None) -> str | None:
        if value is not None:
            read_namespaces(value)
        return value

    @field_validator("admin_bind")
    @classmethod
    def _is_bind(cls, value: str | None) -> str | None:
        return None if value is None else checked_bind(value)

    @field_validator("api_keys", mode="after")
    @classmethod
    def _api_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None:
            read_entries(keys.get_secret_value(), ";\n")
        return keys

    @field_validator("api_keys_file", mode="after")
    @classmethod
    def _api_keys_file(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_entries(text_of(path), "\n")
        return path

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _proxies(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normal_network(network) for network in networks)

    @field_validator("allowed_hosts", mode="after")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normal_host(host) for host in hosts)

    @field_validator("api_prefix", "centrifugo_api_prefix")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value) is None or {".", ".."} & set(value.split("/")):
            raise ValueError("must be a path that begins with / and does not end with it, such as /relay")
        if value == "/ws":
            raise ValueError("must not be /ws, or its /ws/tasks would be that of the WebSockets")
        return value

    @property
    def needs_grants(self) -> bool:
        """Whether clients need a grant, or a key. Otherwise every client may do everything."""
        return self.has_grants or self.api_keys is not None or self.api_keys_file is not None

    def accepted_keys(self) -> ApiKeys:
        """Return the API keys of the setting and of the file, which is read again.

        Raises:
            ConfigError: The file can no longer be read.
        """
        inline = self.api_keys.get_secret_value() if self.api_keys is not None else ""
        try:
            keys = read_entries(inline, ";\n")
            if self.api_keys_file is not None:
                keys += read_entries(text_of(self.api_keys_file), "\n")
        except ValueError as error:
            raise ConfigError(f"RELAY_API_KEYS_FILE: {error}") from None
        return ApiKeys(keys)

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if f"{self.api_prefix}/".startswith(f"{self.centrifugo_api_prefix}/"):
            raise ValueError("centrifugo_api_prefix: must not be RELAY_API_PREFIX, where Relay's own API is")
        if self.queue_bytes < self.max_update_bytes:
            raise ValueError(
                "queue_bytes: must be at least RELAY_MAX_UPDATE_BYTES, or no client could get such an update"
            )
        if self.allowed_hosts == ("*",) and "same-origin" in self.allowed_origins:
            raise ValueError(
                "allowed_origins: same-origin needs the relay's names in RELAY_ALLOWED_HOSTS, or every name that leads "
                "here would be one"
            )
        if self.history_meta_ttl < max(self.history_ttl, self.task_state_ttl, self.terminal_state_ttl):
            raise ValueError(
                "history_meta_ttl: must be at least RELAY_HISTORY_TTL, RELAY_TASK_STATE_TTL and RELAY_TERMINAL_STATE_TTL, "
                "or positions would be lost"
            )
        if self.coalesce_after >= self.queue_messages:
            raise ValueError("coalesce_after: must be less than RELAY_QUEUE_MESSAGES, at which a client is dropped")
        return self


#: Settings whose values are never shown.
_SECRETS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None)


def load(**overrides: Any) -> tuple[Settings, RedisSettings]:
    """Read and check all settings; keyword arguments (of the command line) win over the environment.

    Raises ConfigError that names each wrong variable and says how to mend it.
    """
    redis_overrides = {"url": overrides.pop("redis_url")} if overrides.get("redis_url") else {}
    overrides = {name: value for name, value in overrides.items() if value is not None and name != "redis_url"}
    try:
        return Settings(**overrides), RedisSettings(**redis_overrides)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{_ENV_FILE} is not valid UTF-8: {error.reason} at byte {error.start}") from None
    except ValidationError as error:
        prefix = "REDIS_" if error.title == RedisSettings.__name__ else "RELAY_"
        options = {"url": "--redis-url"} if prefix == "REDIS_" else {name: f"--{name}" for name in overrides}
        given = redis_overrides if prefix == "REDIS_" else overrides
        options = {name: option for name, option in options.items() if name in given}
        raise ConfigError("\n".join(_explained(prefix, dict(detail), options) for detail in error.errors())) from None


def _explained(prefix: str, detail: dict[str, Any], options: dict[str, str]) -> str:
    """Return what is wrong, and with which variable, or with which option if it was given as one."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["loc"]:
        name = str(detail["loc"][0])
    else:  # from the checks across fields, whose messages begin with the field's name
        name, _, message = message.partition(": ")
    is_secret = prefix == "REDIS_" or not detail["loc"] or name in _SECRETS
    shown = "" if is_secret else f" (it is {detail['input']!r})"
    if name in options:
        return f"{options[name]}: {message}{shown}."
    return f"{prefix}{name.upper()}: {message}{shown}. Change it in the environment or in .env."


def unknown_variables(environ: dict[str, str] | None = None) -> list[str]:
    """A sentence for each RELAY_* variable, here or in ``.env``, that is no setting: most likely a typing error."""
    known = {"RELAY_" + name.upper() for name in Settings.model_fields}
    names = {*os.environ, *(name.upper() for name in dotenv_values(_ENV_FILE))} if environ is None else set(environ)
    warnings = []
    for name in sorted(names):
        if name.startswith("RELAY_") and name not in known | _NOT_SETTINGS:
            # Without the prefix that all have in common, or every name would be near to some other.
            ends = [each.removeprefix("RELAY_") for each in known]
            near = difflib.get_close_matches(name.removeprefix("RELAY_"), ends, n=1, cutoff=0.7)
            suggestion = f"; did you mean RELAY_{near[0]}?" if near else ""
            warnings.append(f"{name} is not a setting and does nothing{suggestion}")
    return warnings
