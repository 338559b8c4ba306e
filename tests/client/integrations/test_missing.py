"""An integration whose library is not installed says what to install."""

import builtins
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from relay_client import integrations

EXTRAS = metadata.metadata("trio-relay-client").get_all("Provides-Extra") or []

LIBRARIES = {
    "airflow": "airflow",
    "alive_progress": "alive_progress",
    "apscheduler": "apscheduler",
    "arq": "arq",
    "celery": "celery",
    "celery.events": "celery",
    "dask": "distributed",
    "django.apps": "django",
    "dramatiq": "dramatiq",
    "fastapi": "fastapi",
    "huey": "huey",
    "lightning": "lightning",
    "prefect": "prefect",
    "procrastinate": "procrastinate",
    "rich": "rich",
    "rq": "rq",
    "saq": "saq",
    "starlette": "starlette",
    "taskiq": "taskiq",
    "tqdm": "tqdm",
    "transformers": "transformers",
}

#: Modules that need no library, or only those of a module above.
NONE = {
    *("bars", "job", "job_reporter", "missing", "patching", "progress_fields", "whole_process"),
    *("celery.hooks", "celery.request", "django", "django.signals"),
}


def test_every_integration_is_here() -> None:
    directory = Path(integrations.__file__).parent
    modules = {str(path.relative_to(directory)) for path in directory.rglob("*.py")} - {"__init__.py"}
    names = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in modules}
    assert names == LIBRARIES.keys() | NONE


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
    extra = integration.partition(".")[0].replace("_", "-")
    assert extra in EXTRAS
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'trio-relay-client\[{extra}\]'"):
        import_module(f"relay_client.integrations.{integration}")
