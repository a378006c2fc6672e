from copy import deepcopy
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from medvision.callbacks import ExactState
from medvision.callbacks.resume_state import KEY, settle
from medvision.tasks.base import MeanLoss

pytestmark = pytest.mark.filterwarnings("ignore:.*many workers.*", "ignore:.*not resumable.*")
NUM_BATCHES = 5


class Task(LightningModule):
    """Learn with dropout, and record every loss and epoch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.train_loss = MeanLoss()
        self.seen: list[tuple[int, int, float]] = []
        self.means: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.net(batch[0]).square().mean()
        self.train_loss.update(loss.detach(), len(batch[0]))
        self.seen.append((self.current_epoch, batch_idx, float(loss.detach())))
        return loss

    def on_train_epoch_end(self) -> None:
        self.means.append(float(self.train_loss.compute()))
        self.train_loss.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Save(ExactState):
    """Save a checkpoint at one point of the fit."""

    def __init__(self, place: tuple[int, int] | None) -> None:
        super().__init__()
        self.place, self.checkpoint = place, None

    def keep(self, trainer: Trainer) -> None:
        live = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        self.checkpoint = deepcopy(live)

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *rest: Any) -> None:
        if (trainer.current_epoch, rest[2]) == self.place:
            self.keep(trainer)

    def on_train_epoch_end(self, trainer: Trainer, task: LightningModule) -> None:
        if self.place is None and trainer.current_epoch == 1:
            self.keep(trainer)


def loader(skip: int = 0) -> DataLoader:
    rows = torch.arange(12.0 * NUM_BATCHES).reshape(-1, 3) / 60
    return DataLoader(TensorDataset(rows[4 * skip :]), batch_size=4)


def fit(callback: ExactState, path: Any = None, *, skip: int = 0) -> Task:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=4,
        limit_train_batches=NUM_BATCHES,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task = Task()
    trainer.fit(task, loader(skip), ckpt_path=path, weights_only=True)
    return task


def test_a_fit_resumed_after_an_epoch_draws_and_learns_the_same(tmp_path: Any) -> None:
    save = Save(None)
    whole = fit(save)
    torch.save(save.checkpoint, tmp_path / "at.ckpt")
    assert save.checkpoint is not None
    assert (save.checkpoint[KEY]["epoch"], save.checkpoint[KEY]["batches"]) == (2, 0)
    torch.manual_seed(99)
    rest = fit(ExactState(), tmp_path / "at.ckpt")
    assert rest.seen == whole.seen[2 * NUM_BATCHES :]
    assert rest.means == whole.means[2:]


def test_sums_of_a_half_epoch_are_kept(tmp_path: Any) -> None:
    save = Save((1, 2))
    whole = fit(save)
    assert save.checkpoint is not None
    kept = save.checkpoint[KEY]
    assert (kept["epoch"], kept["batches"], kept["over"]) == (1, 3, False)
    (own,) = kept["processes"]
    assert int(own["sums"]["train_loss"]["states"]["num_rows"]) == 12
    losses = [loss for epoch, _, loss in whole.seen if epoch == 1]
    total = float(own["sums"]["train_loss"]["states"]["total"])
    assert total == pytest.approx(4 * sum(losses[:3]))


@pytest.mark.parametrize("within", [True, False])
def test_settled_counters_contain_only_finished_work(within: bool) -> None:
    done = {"ready": 8, "started": 8, "processed": 8, "completed": 7}
    epoch = {"ready": 2, "started": 2, "processed": 1 if within else 2, "completed": 1}
    loop = {
        "epoch_progress": {"total": dict(epoch), "current": dict(epoch)},
        "epoch_loop.state_dict": {"_batches_that_stepped": 7},
        "epoch_loop.batch_progress": {
            "total": dict(done),
            "current": {"ready": 3, "started": 3, "processed": 3, "completed": 2},
            "is_last_batch": True,
        },
        "epoch_loop.val_loop.batch_progress": {
            "total": dict(done),
            "current": dict(done),
            "is_last_batch": True,
        },
    }
    settle(loop, within=within)
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["total"]
    assert set(batches["total"].values()) == {8}
    assert set(batches["current"].values()) == ({3} if within else {0})
    assert batches["is_last_batch"] is False
    assert list(epochs.values()) == ([2, 2, 1, 1] if within else [2, 2, 2, 2])
    assert set(loop["epoch_loop.val_loop.batch_progress"]["total"].values()) == {0}
