"""The web server: the page, and the endpoints that it calls."""

import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from tasks import app as celery
from tasks import draw

app = FastAPI()


@app.get("/settings")
def settings() -> dict[str, str]:
    """Where the relay is that the page connects to."""
    return {"relay": os.environ["PUBLIC_RELAY_URL"]}


@app.post("/pictures")
def enqueue(subject: str, lines: int = 40, trouble: float = 0.2) -> dict[str, str]:
    """Have a picture drawn."""
    return {"task_id": draw.delay(subject=subject, lines=lines, trouble=trouble).id}


@app.delete("/pictures/{task_id}", status_code=204)
def cancel(task_id: str) -> None:
    """Stop a picture that waits or is drawn."""
    celery.control.revoke(task_id, terminate=True)


app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))
