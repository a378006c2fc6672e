"""Padding rows in validation batches do not change any result."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from medvision.callbacks import ClassProbabilities, SegmentationPredictions
from medvision.data import ClassificationData, ImageData, SegmentationData
from medvision.losses import CrossEntropy
from medvision.run.config.store import keys_of
from medvision.tasks import ClassificationTask, SegmentationTask, Task

SMALL = {"seed": 0, "image_size": 16, "batch_size": 4, "num_workers": 0, "val_fraction": 0.5}
KINDS = ("segmentation", "classification")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def data_of(kind: str, count: int) -> ImageData:
    """Phantoms of the shipped configuration, ``count`` of them for validation."""
    shipped: Any = keys_of("data", f"folder_{kind}")
    shipped.pop("_target_")
    make = SegmentationData if kind == "segmentation" else ClassificationData
    data: ImageData = make(**{**shipped, **SMALL, "num_images": 40})
    data.prepare()
    data.tables["val"] = data.tables["val"][:count]
    assert len(data.tables["val"]) == count
    return data


class Network(nn.Module):
    """Layer with batch norm and one logit per pixel or per image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU())
        self.head, self.kind = nn.Conv2d(4, 1, 1), kind

    def forward(self, image: Tensor) -> Tensor:
        logits = self.head(self.layers(image.float() / 255))
        return logits if self.kind == "segmentation" else 9 * logits.mean((2, 3))


def task_of(kind: str) -> Task:
    torch.manual_seed(0)
    make = SegmentationTask if kind == "segmentation" else ClassificationTask
    return make(
        model=Network(kind),
        loss=CrossEntropy(num_classes=2),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        class_names=["no", "yes"],
    ).eval()


def validate(
    kind: str, count: int, folder: Path, *, fixed_shapes: bool
) -> tuple[dict[str, float], Any]:
    """Values that Lightning logs in a validation, and the outputs collected by the callback."""
    data, task = data_of(kind, count), task_of(kind)
    data.fixed_shapes = fixed_shapes
    seen: Any = ClassProbabilities()
    if isinstance(data, SegmentationData):
        seen = SegmentationPredictions(
            folder=folder,
            stage="val",
            samples=data.tables["val"],
            source=data.source,
            class_names=["no", "yes"],
        )
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (logged,) = trainer.validate(task, datamodule=data, verbose=False)
    return dict(logged), seen


@pytest.mark.parametrize("count", [7, 8, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_neither_loss_nor_scores_nor_stored_predictions(
    kind: str, count: int, tmp_path: Path
) -> None:
    plain, before = validate(kind, count, tmp_path, fixed_shapes=False)
    padded, after = validate(kind, count, tmp_path, fixed_shapes=True)
    assert padded == pytest.approx(plain, abs=1e-6, nan_ok=True)
    assert {"val/loss", "val/auroc", "val/recall"} <= set(padded)
    if kind == "segmentation":
        assert len(after.rows) == count
        assert repr(after.rows) == repr(before.rows)
        assert np.array_equal(after.confusion, before.confusion)
        assert np.array_equal(after.histogram, before.histogram)
        assert all(np.array_equal(a, b) for a, b in zip(after.roc, before.roc, strict=True))
    else:
        assert after.index.tolist() == list(range(count))
        assert np.array_equal(after.target, before.target)
        assert after.logits == pytest.approx(before.logits, abs=1e-6)
        assert after.probability == pytest.approx(before.probability, abs=1e-6)


class Link:
    """Exchange gathered values between two threads, as DDP does."""

    def __init__(self) -> None:
        self.barrier = Barrier(2, timeout=20)
        self.given: list[Any] = [None, None]

    def all_gather(self, rank: int, tensor: Tensor) -> Tensor:
        self.given[rank] = tensor
        self.barrier.wait()
        together = torch.stack(list(self.given))
        self.barrier.wait()
        return together

    def trainer(self, rank: int) -> Any:
        """Stand-in for Lightning's trainer with the attributes that task and data use."""
        strategy = SimpleNamespace(all_gather=partial(self.all_gather, rank))
        return SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy)


@pytest.mark.parametrize(
    ("count", "fixed_shapes"),
    [
        (7, False),
        pytest.param(8, True, marks=pytest.mark.slow),
        pytest.param(9, False, marks=pytest.mark.slow),
        (9, True),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_scores_of_one(
    kind: str, count: int, fixed_shapes: bool, tmp_path: Path
) -> None:
    link = Link()
    data, tasks = data_of(kind, count), [task_of(kind), task_of(kind)]
    data.fixed_shapes = fixed_shapes
    shapes = []
    for rank, task in enumerate(tasks):
        data.trainer = task.trainer = link.trainer(rank)
        task.setup("validate")
        batches = list(data.val_dataloader())
        shapes.append([tuple(batch["image"].shape) for batch in batches])
        with torch.inference_mode():
            for number, batch in enumerate(batches):
                task.validation_step(batch, number)
    assert shapes[0] == shapes[1]  # with 9 in batches of 4 the second's last holds padding only

    def scores(task: Task) -> dict[str, float]:
        values = {"loss": task.val_loss.compute(), **task.val_metrics.compute()}
        return {f"val/{name}": value.item() for name, value in values.items()}

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(scores, tasks))
    assert found[0] == pytest.approx(found[1], abs=0, nan_ok=True)
    alone, _ = validate(kind, count, tmp_path, fixed_shapes=False)
    assert found[0] == pytest.approx(alone, abs=1e-6, nan_ok=True)
