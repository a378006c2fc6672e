"""The task as a plain module: no Hydra, no data module."""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medvision.losses import CrossEntropy
from medvision.tasks import SegmentationTask
from medvision.tasks.schedules import constant, cosine_with_warmup, reduce_on_plateau
from medvision.types import IGNORE_INDEX

SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


class PixelClassifier(nn.Module):
    """One weight per channel: the smallest network that segments."""

    def __init__(self, num_logits: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, num_logits, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image.float() / 255)


def task(**changes: Any) -> SegmentationTask:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "model": PixelClassifier(),  # its weights follow the seed
        "loss": CrossEntropy(num_classes=2),
        "optimizer": partial(torch.optim.Adam, lr=0.05),
        "class_names": ["background", "polyp"],
    }
    return SegmentationTask(**{**options, **changes})


def batches(count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        image = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
        target = (image[:, 0] > 127).to(torch.uint8)
        made.append({"image": image, "target": target, "index": torch.arange(2) + 2 * number})
    return made


def loader(items: list[dict[str, Tensor]]) -> DataLoader:
    return DataLoader(items, batch_size=None)


@pytest.fixture
def trainer(tmp_path: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=12,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        **SILENT,
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_it_learns_and_logs_every_score_for_train_and_validation(trainer: Trainer) -> None:
    module = task()
    trainer.fit(module, loader(batches()), loader(batches()))
    logged = trainer.callback_metrics
    names = ("loss", "dice", "iou", "dice_global", "iou_global", "accuracy", "precision")
    for name in (*names, "recall", "specificity", "auroc"):
        assert {f"train/{name}", f"val/{name}"} <= set(logged)
    assert logged["val/dice"] > 0.9
    assert logged["val/auroc"] > 0.99


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_epoch_scores_are_those_of_all_its_images(trainer: Trainer) -> None:
    module = task()
    trainer.test(module, loader(batches(3)), verbose=False)
    logits = torch.cat([module(batch["image"]) for batch in batches(3)])
    target = torch.cat([batch["target"] for batch in batches(3)]).bool()
    predicted = logits[:, 0].sigmoid() >= 0.5
    overlap = (predicted & target).sum((1, 2))
    dice = (2 * overlap + 1e-7) / (predicted.sum((1, 2)) + target.sum((1, 2)) + 1e-7)
    assert float(trainer.callback_metrics["test/dice"]) == pytest.approx(
        float(dice.mean()), abs=1e-6
    )
    assert float(trainer.callback_metrics["test/accuracy"]) == pytest.approx(
        float((predicted == target).float().mean()), abs=1e-6
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_scores_of_one_epoch_do_not_leak_into_the_next(trainer: Trainer) -> None:
    module = task()
    (first,) = trainer.test(module, loader(batches(2)), verbose=False)
    (second,) = trainer.test(module, loader(batches(2)), verbose=False)
    assert first == pytest.approx(second, abs=0, nan_ok=True)


def test_ignored_pixels_change_neither_loss_nor_scores() -> None:
    module = task()
    (batch,) = batches(1)
    halved = {**batch, "target": batch["target"].clone()}
    halved["target"][:, 4:] = IGNORE_INDEX
    cropped = {**batch, "image": batch["image"][:, :, :4], "target": batch["target"][:, :4]}
    scores = []
    for item in (halved, cropped):
        with torch.no_grad():
            loss, _ = module._step(item, "val")
        values = module.val_metrics.compute()
        module.val_metrics.reset()
        scores.append([loss.item(), *(float(value) for value in values.values())])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6, nan_ok=True)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_three_classes_are_scored_one_by_one(trainer: Trainer) -> None:
    torch.manual_seed(0)
    module = task(
        model=PixelClassifier(3),
        loss=CrossEntropy(num_classes=3),
        class_names=["background", "core", "rim"],
    )
    items = batches()
    for item in items:
        item["target"] = (item["image"][:, 0] // 86).to(torch.uint8)
    trainer.fit(module, loader(items), loader(items))
    assert {"val/dice/core", "val/dice/rim", "val/iou/rim"} <= set(trainer.callback_metrics)


def test_the_checkpoint_carries_the_metadata() -> None:
    checkpoint: dict[str, Any] = {}
    task(metadata={"class_names": ["a", "b"]}).on_save_checkpoint(checkpoint)
    assert checkpoint["medvision"] == {"class_names": ["a", "b"]}


def rates(schedule: dict[str, Any], optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    return seen


def test_cosine_rises_then_falls_to_its_final_factor() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_with_warmup(optimizer, total_steps=100, warmup_fraction=0.1, final_factor=0.1)
    seen = rates(schedule, optimizer, 101)
    assert schedule["interval"] == "step"
    assert seen[:10] == pytest.approx([2 * (step + 1) / 11 for step in range(10)])
    assert seen[10] == pytest.approx(2.0)
    assert seen[55] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert seen[100] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(seen[10:]))


def test_plateau_halves_the_rate_after_its_patience() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = reduce_on_plateau(
        optimizer, total_steps=10, monitor="val/loss", factor=0.5, patience=2
    )
    assert schedule["monitor"] == "val/loss"
    for _ in range(5):
        schedule["scheduler"].step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(("monitor", "rate"), [("val/dice", 1.0), ("val/loss", 0.25)])
def test_plateau_keeps_the_rate_while_the_score_improves(monitor: str, rate: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = reduce_on_plateau(optimizer, total_steps=10, monitor=monitor, factor=0.5, patience=0)
    for value in (0.1, 0.2, 0.3):  # rises: better for Dice, worse for a loss
        schedule["scheduler"].step(value)
    assert optimizer.param_groups[0]["lr"] == rate


def test_constant_has_no_schedule() -> None:
    assert constant(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), total_steps=3) is None


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_schedule_spans_the_whole_fit(trainer: Trainer) -> None:
    module = task(
        scheduler=partial(cosine_with_warmup, warmup_fraction=0.0),
        optimizer=partial(torch.optim.SGD, lr=1.0),
    )
    trainer.fit(module, loader(batches()), loader(batches()))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))
