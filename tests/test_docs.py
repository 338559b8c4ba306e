"""The documentation says what the code does."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from relay.config import RedisSettings, Settings
from relay.core.closecodes import Close

DOCS = Path(__file__).parent.parent / "docs"


def test_close_codes_are_those_of_the_registry() -> None:
    rows = re.findall(r"^\| (\d{4}) \| (.*?) ?\| .*? \| (yes|no) \|$", (DOCS / "protocol.md").read_text(), re.MULTILINE)
    assert [(int(code), reason, back == "yes") for code, reason, back in rows] == [
        (close.code, close.reason, close.reconnect) for close in Close
    ]


def shown(default: object) -> str:
    match default:
        case None | "" | ():
            return ""
        case bool():
            return f"`{str(default).lower()}`"
        case float():
            return f"`{default:g}`"
        case tuple():
            return f"`{','.join(default)}`"
        case _:
            return f"`{default}`"


@pytest.mark.parametrize(("settings", "prefix"), [(RedisSettings, "REDIS_"), (Settings, "RELAY_")])
def test_every_setting_is_documented(settings: type[BaseSettings], prefix: str) -> None:
    rows = re.findall(
        rf"^\| `({prefix}\w+)` \| (.*?) ?\| (.*) \|$", (DOCS / "configuration.md").read_text(), re.MULTILINE
    )
    assert rows == [
        (prefix + name.upper(), shown(field.default), field.description)
        for name, field in settings.model_fields.items()
    ]
