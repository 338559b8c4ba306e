"""Background tasks of FastAPI under uvicorn."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestUvicorn(Story):
    queue = Queue(
        "fastapi_app",
        lambda module: ["uvicorn", f"{module}:app", "--port", "BROKER_PORT"],
        row="FastAPI, Starlette",
    )
