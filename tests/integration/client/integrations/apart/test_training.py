"""transformers and Lightning, each with a training of a few steps: on its own, within a task, and failing."""

from pathlib import Path

import pytest

from tests.harness import RedisServer
from tests.integration.client.integrations.apart.programs import run, tasks

TRANSFORMERS = """
import sys, torch
from relay_client import TaskReporter
from relay_client.integrations.transformers import RelayCallback
from transformers import Trainer, TrainingArguments

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x, labels):
        if sys.argv[1] == "fails":
            raise ValueError("broken")
        out = self.layer(x)
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}

data = [{"x": torch.ones(1), "labels": torch.ones(1)} for _ in range(16)]
options = TrainingArguments("out", max_steps=8, logging_steps=2, save_strategy="no", report_to=[], use_cpu=True,
    per_device_train_batch_size=2, disable_tqdm=True)
def train():
    Trainer(Model(), options, train_dataset=data, callbacks=[RelayCallback("A model")]).train()
"""

LIGHTNING = """
import sys, torch
from lightning.pytorch import LightningModule, Trainer
from relay_client import TaskReporter
from relay_client.integrations.lightning import RelayCallback

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        if sys.argv[1] == "fails":
            raise ValueError("broken")
        loss = self.layer(batch).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

data = torch.utils.data.DataLoader(torch.ones(16, 1), batch_size=2)
def train():
    Trainer(max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[RelayCallback("A model")]).fit(Model(), data)
"""

MAIN = """
if sys.argv[1] == "inside":
    with TaskReporter()("outer", title="Outer"):
        train()
elif sys.argv[1] == "fails":
    try:
        train()
    except ValueError:
        pass
else:
    train()
"""


@pytest.mark.parametrize(
    "library", [pytest.param(TRANSFORMERS, id="transformers"), pytest.param(LIGHTNING, id="lightning")]
)
@pytest.mark.parametrize("how", ["alone", "inside", "fails"])
def test_a_training(redis_server: RedisServer, tmp_path: Path, library: str, how: str) -> None:
    (tmp_path / "program.py").write_text(library + MAIN)
    run("", redis_server, tmp_path, ["program.py", how])
    found = tasks(redis_server)
    ((task_id, state),) = found.items()
    if how == "fails":
        assert (state["status"], state["title"], state["error"]) == ("failed", "A model", "ValueError: broken")
        return
    assert (state["status"], state["done"], state["total"], state["progress"]) == ("completed", 8, 8, 100)
    assert isinstance(state["loss" if library is LIGHTNING else "train_loss"], float)
    assert (task_id == "outer", state["title"]) == ((True, "Outer") if how == "inside" else (False, "A model"))
