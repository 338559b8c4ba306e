"""Settings: a wrong one is named with its mend, and no secret is ever shown."""

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import parse_url

from relay.config import RedisSettings, Settings, load, unknown_variables
from relay.core.api_keys import create_key
from relay.core.errors import ConfigError
from relay.server.workers import worker_shares

SECRET = "p@ss:w/rd?#%&+ é"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env but the test's own."""
    import os

    for name in os.environ:
        if name.startswith(("RELAY_", "REDIS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_valid_and_bring_a_redis_along() -> None:
    settings, redis = load()
    assert (settings.port, settings.workers, redis.configured_url()) == (8000, 1, None)


WRONG = [
    ("RELAY_PORT", "abc", "valid integer"),
    ("RELAY_PORT", "65536", "less than or equal to 65535"),
    ("RELAY_WORKERS", "0", "greater than or equal to 1"),
    ("RELAY_LOG_LEVEL", "loud", "debug|info|warning|error|critical"),
    ("RELAY_HIJACK_SOCKETS", "perhaps", "valid boolean"),
    ("RELAY_API_PREFIX", "relay", "begins with /"),
    ("RELAY_API_PREFIX", "/relay/", "begins with /"),
    ("RELAY_API_PREFIX", "/a/../b", "begins with /"),
    ("RELAY_API_PREFIX", "/<x>", "begins with /"),
    ("RELAY_API_PREFIX", "/ws", "/ws/tasks"),
    ("RELAY_QUEUE_MAX_AGE", "0", "greater than 0"),
    ("RELAY_QUEUE_MAX_AGE", "inf", "finite number"),
    ("RELAY_QUEUE_MAX_AGE", "nan", "finite number"),
    ("RELAY_HEARTBEAT_INTERVAL", "1e12", "less than or equal"),
    ("RELAY_HISTORY_META_TTL", "86399", "RELAY_TASK_STATE_TTL"),
    ("RELAY_ALLOWED_ORIGINS", "https://a.example/", "scheme://host"),
    ("RELAY_ALLOWED_ORIGINS", "https://a.example, b.example", "'b.example'"),
    ("RELAY_ALLOWED_ORIGINS", "https://*.example.com", "any origin"),
    ("RELAY_ALLOWED_HOSTS", "relay.example:8000", "without scheme and port"),
    ("RELAY_ALLOWED_HOSTS", "https://relay.example", "without scheme and port"),
    ("RELAY_TRUSTED_PROXIES", "10.0.0.1/8", "host bits"),
    ("RELAY_TRUSTED_PROXIES", "proxy.example", "a network such as"),
    ("RELAY_API_KEYS", "relay_abc", "`relay key create` prints"),
    ("RELAY_API_KEYS", f"ci:{'0' * 64}:publsh:all", "publsh"),
    ("RELAY_API_KEYS_FILE", "/no/such/file", "No such file"),
    ("RELAY_QUEUE_BYTES", "1024", "RELAY_MAX_UPDATE_BYTES"),
    ("RELAY_CLOSE_TIMEOUT", "20", "RELAY_GRACEFUL_TIMEOUT"),
    ("RELAY_DRAIN_SECONDS", "11.5", "RELAY_GRACEFUL_TIMEOUT=20.67"),
    ("RELAY_CONNECT_RATE", "-1", "greater than or equal to 0"),
    ("RELAY_MAX_MESSAGE_BYTES", "1e9 ", "valid integer"),
    ("REDIS_PORT", "tcp://10.0.0.1:6379", "valid integer"),
    ("REDIS_URL", "redis://host/abc", "a number, not 'abc'"),
    ("REDIS_URL", "redis://host?db=x", "a number, not 'x'"),
    ("REDIS_URL", "redis+sentinel://host/mymaster/x", "a number, not 'x'"),
    ("REDIS_URL", "redis://host/0?decode_responses=True", "does not take the option 'decode_responses'"),
    ("REDIS_URL", "redis://host/0?foo=bar", "does not take the option 'foo'"),
    ("REDIS_URL", "http://somewhere", "redis://, rediss://, unix://"),
    ("REDIS_DB", "-1", "greater than or equal to 0"),
    ("REDIS_SSL_CA_CERTS", "/no/such/file", "no such file"),
]


def test_empty_variables_are_unset_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Compose makes of ``${REDIS_PORT:-}``."""
    names = ["RELAY_" + name for name in Settings.model_fields] + [
        "REDIS_" + name for name in RedisSettings.model_fields
    ]
    for name in names:
        monkeypatch.setenv(name.upper(), "")
    settings, redis = load()
    assert settings == Settings(_env_file=None)  # type: ignore[call-arg]
    assert redis.configured_url() is None


def test_origins_and_hosts_are_taken_as_browsers_send_them(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = "HTTPS://App.Example:443, http://localhost:3000, capacitor://localhost, null"
    monkeypatch.setenv("RELAY_ALLOWED_ORIGINS", origins)
    monkeypatch.setenv("RELAY_ALLOWED_HOSTS", "Relay.Example, [::1], 10.0.0.1")
    settings, _ = load()
    assert settings.allowed_origins == ("https://app.example", "http://localhost:3000", "capacitor://localhost", "null")
    assert settings.allowed_hosts == ("relay.example", "[::1]", "10.0.0.1")


def test_a_file_of_settings_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"RELAY_PORT=8000\n#\xff\n")
    with pytest.raises(ConfigError, match=r"\.env is not valid UTF-8"):
        load()


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:p@host:1/3?socket_timeout=2",
        "unix:///run/redis.sock?db=2",
        "rediss://host?ssl_cert_reqs=none",
        "redis+sentinel://a,b/mymaster",
        "redis+sentinel://a,b/mymaster/1?sentinel_password=x",
        "redis+cluster://a,b",
    ],
)
def test_urls_that_are_right_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert load()[1].configured_url() == url


@pytest.mark.parametrize(("name", "value", "mend"), WRONG, ids=[f"{name}={value}" for name, value, _ in WRONG])
def test_a_wrong_variable_is_named_with_what_is_right(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, mend: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert mend in message
    assert "environment or in .env" in message
    assert "\n" not in message


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PORT", "x")
    monkeypatch.setenv("RELAY_MAX_CLIENTS", "-4")
    with pytest.raises(ConfigError) as caught:
        load()
    port, clients = str(caught.value).splitlines()
    assert port.startswith("RELAY_PORT: ")
    assert "it is 'x'" in port
    assert clients.startswith("RELAY_MAX_CLIENTS: ")
    assert "it is '-4'" in clients


def test_bounds_that_belong_together_may_be_moved_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_QUEUE_BYTES", "1024")
    monkeypatch.setenv("RELAY_MAX_STATE_BYTES", "1024")
    monkeypatch.setenv("RELAY_MAX_UPDATE_BYTES", "1024")
    monkeypatch.setenv("RELAY_MAX_STATE_BYTES", "1024")
    assert load()[0].queue_bytes == 1024
    monkeypatch.setenv("RELAY_MAX_UPDATE_BYTES", "1025")
    with pytest.raises(ConfigError):
        load()


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_EXTRA_CHANNELS", " community_agent:*, news ,,")
    monkeypatch.setenv("RELAY_ALLOWED_ORIGINS", "https://a.example")
    settings, _ = load()
    assert settings.extra_channels == ("community_agent:*", "news")
    assert settings.allowed_origins == ("https://a.example",)


def test_env_file_then_environment_then_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("RELAY_PORT=1111\nRELAY_WORKERS=3\nREDIS_URL=redis://file:1\nUNRELATED=1\n")
    settings, redis = load()
    assert (settings.port, settings.workers, redis.configured_url()) == (1111, 3, "redis://file:1")
    monkeypatch.setenv("RELAY_PORT", "2222")
    monkeypatch.setenv("REDIS_URL", "redis://environment:1")
    settings, redis = load(workers=None, redis_url=None)
    assert (settings.port, settings.workers, redis.configured_url()) == (2222, 3, "redis://environment:1")
    settings, redis = load(port=3333, redis_url="redis://line:1")
    assert (settings.port, redis.configured_url()) == (3333, "redis://line:1")
    with pytest.raises(ConfigError, match=r"^--port: "):
        load(port=99999)


def test_settings_cannot_be_changed() -> None:
    settings, redis = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
    with pytest.raises(ValueError, match="frozen"):
        redis.port = 1


FORMS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"HOST": "r"}, {"host": "r", "port": 6379, "db": 0}),
    ({"HOST": "r", "PORT": "7", "DB": "3"}, {"host": "r", "port": 7, "db": 3}),
    ({"HOST": "::1"}, {"host": "::1", "port": 6379}),
    ({"HOST": "r", "PASSWORD": SECRET}, {"host": "r", "password": SECRET}),
    ({"HOST": "r", "USERNAME": "us:er", "PASSWORD": SECRET}, {"username": "us:er", "password": SECRET}),
    ({"URL": "redis://:x@u:1/2", "HOST": "r", "PASSWORD": "p"}, {"host": "u", "port": 1, "db": 2, "password": "x"}),
    ({"URL": "unix:///run/redis.sock?db=1"}, {"path": "/run/redis.sock", "db": 1}),
]


@pytest.mark.parametrize(("variables", "expected"), FORMS, ids=[",".join(form) for form, _ in FORMS])
def test_redis_may_be_given_in_parts_or_as_a_url(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: dict[str, Any]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"REDIS_{name}", value)
    url = load()[1].configured_url()
    assert url is not None
    understood: dict[str, Any] = dict(parse_url(url))
    assert {name: understood.get(name) for name in expected} == expected


def test_tls_is_asked_for_in_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "r")
    monkeypatch.setenv("REDIS_SSL", "true")
    url = load()[1].configured_url()
    assert url == "rediss://r:6379/0"


def test_no_secret_is_shown_by_settings_or_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "r")
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2")
    monkeypatch.setenv("REDIS_URL", "redis://:hunter3@r")
    settings, redis = load()
    for shown in (repr(redis), str(redis), repr(settings), str(redis.model_dump()), f"{redis.url} {redis.password}"):
        assert "hunter" not in shown
    monkeypatch.setenv("REDIS_URL", "http://:hunter3@r")
    monkeypatch.setenv("REDIS_PORT", "hunter4")
    with pytest.raises(ConfigError) as caught:
        load()
    assert "hunter" not in str(caught.value)
    # The error that pydantic raised, with all that was given, does not come out with it, in a traceback for instance.
    assert caught.value.__suppress_context__
    monkeypatch.delenv("REDIS_PORT")
    with pytest.raises(ConfigError) as caught:
        load()
    assert "hunter" not in str(caught.value)


def test_unknown_variables_are_pointed_out_with_what_was_meant() -> None:
    warnings = unknown_variables(
        {
            "RELAY_QUEUE_MESAGES": "1",
            "RELAY_XYZZY": "1",
            "RELAY_IMAGE": "1",
            "RELAY_PORT": "1",
            "REDIS_FOO": "1",
            "RELAY_SERVICE_HOST": "x",
        }
    )
    assert warnings == [
        "RELAY_IMAGE is not a setting and does nothing",
        "RELAY_QUEUE_MESAGES is not a setting and does nothing; did you mean RELAY_QUEUE_MESSAGES?",
        "RELAY_XYZZY is not a setting and does nothing",
    ]


def test_unknown_variables_are_looked_for_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unknown_variables() == []
    monkeypatch.setenv("RELAY_PROT", "8000")
    assert unknown_variables() == ["RELAY_PROT is not a setting and does nothing; did you mean RELAY_PORT?"]


def test_unknown_variables_are_looked_for_in_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("RELAY_PORT=8001\nRELAY_PROT=8001\nOTHER=1\n")
    monkeypatch.chdir(tmp_path)
    assert unknown_variables() == ["RELAY_PROT is not a setting and does nothing; did you mean RELAY_PORT?"]
    assert load()[0].port == 8001


def test_every_setting_says_what_it_is() -> None:
    for model in (Settings, RedisSettings):
        for name, field in model.model_fields.items():
            assert field.description, name


def test_api_keys_are_those_of_the_setting_and_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = [create_key("ci", "publish:all") for _ in range(3)]
    file = tmp_path / "keys"
    file.write_text(f"# of the build\n{made[2][1]}\n")
    monkeypatch.setenv("RELAY_API_KEYS", f"{made[0][1]}; {made[1][1]}")
    monkeypatch.setenv("RELAY_API_KEYS_FILE", str(file))
    settings, _ = load()
    keys = settings.accepted_keys()
    assert len(keys) == 3
    assert all(keys.find(key) is not None for key, _ in made)
    assert made[0][1] not in repr(settings)
    file.unlink()
    with pytest.raises(ConfigError, match=r"RELAY_API_KEYS_FILE: .*No such file"):
        settings.accepted_keys()


def test_a_secret_that_is_wrong_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = create_key("ci", "publish:all")
    for value in (key, f"ci:{key}:publish:all"):
        monkeypatch.setenv("RELAY_API_KEYS", value)
        with pytest.raises(ConfigError) as caught:
            load()
        assert key not in str(caught.value)


def test_a_drain_ends_before_the_shutdown_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last client that is closed still has its closing handshake."""
    assert load()[0].drain_window == 10.0
    monkeypatch.setenv("RELAY_GRACEFUL_TIMEOUT", "60")
    monkeypatch.setenv("RELAY_DRAIN_SECONDS", "41")
    settings = load()[0]
    assert settings.drain_window + settings.close_timeout <= settings.closing_seconds < settings.graceful_timeout
    assert load(workers=1)[0].model_copy(update={"graceful_timeout": 1.0}).drain_window == 0.0


def test_workers_share_the_time_and_the_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a supervisor passes to a worker is accepted by it, and is less than what all have."""
    monkeypatch.setenv("RELAY_DRAIN_SECONDS", "11")
    monkeypatch.setenv("RELAY_CONNECT_RATE", "10")
    with pytest.raises(ConfigError, match=r"RELAY_CONNECT_RATE.*RELAY_WORKERS"):
        load(workers=11)
    for name, value in worker_shares(load(workers=4)[0]).items():
        monkeypatch.setenv(name, value)
    settings = load()[0]
    assert settings.connect_rate == 2
    assert 0 < settings.graceful_timeout < 20
    assert settings.drain_window == settings.drain_seconds
    assert 10 < settings.drain_window < 11
