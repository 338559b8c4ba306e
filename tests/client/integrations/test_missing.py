"""An integration whose library is not installed says what to install."""

import builtins
import sys
from importlib import import_module
from typing import Any

import pytest

LIBRARIES = {
    "alive_progress": "alive_progress",
    "apscheduler": "apscheduler",
    "arq": "arq",
    "celery": "celery",
    "celery.events": "celery",
    "django.apps": "django",
    "dramatiq": "dramatiq",
    "fastapi": "fastapi",
    "huey": "huey",
    "rich": "rich",
    "rq": "rq",
    "saq": "saq",
    "starlette": "starlette",
    "taskiq": "taskiq",
    "tqdm": "tqdm",
}


@pytest.mark.parametrize("integration", LIBRARIES)
def test_what_to_install(integration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = LIBRARIES[integration]
    imported = builtins.__import__

    def without_library(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *args, **kwargs)

    for name in [each for each in sys.modules if each.startswith("relay_client.integrations.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_library)
    extra = library.replace("_", "-")
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'trio-relay-client\[{extra}\]'"):
        import_module(f"relay_client.integrations.{integration}")
