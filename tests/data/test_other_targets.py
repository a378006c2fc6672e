"""Targets that are neither one class nor a mask: several floats per image."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from medvision.data import ClassificationData
from medvision.data.loading.datasets import SampleDataset
from medvision.data.samples import SampleTable
from medvision.run.config.store import keys_of
from medvision.tasks import Task
from medvision.types import IGNORE_INDEX

NUM_LABELS = 3


class Labels(ClassificationData):
    """Three numbers in [0, 1] per image: its class, and two from its name."""

    def targets_of(self, samples: SampleTable) -> NDArray[Any]:
        number = np.array([int(path[-10:-4]) for path in samples.paths])
        labels = (super().targets_of(samples), number % 2, number / 100)
        return np.stack(labels, axis=1).astype(np.float32)


def prepared(count: int, *, fixed_shapes: bool) -> Labels:
    """Phantoms of the shipped configuration, ``count`` of them for validation."""
    shipped: Any = keys_of("data", "folder_classification")
    shipped.pop("_target_")
    small = {"seed": 0, "image_size": 16, "batch_size": 4, "num_workers": 0, "num_images": 40}
    data = Labels(**{**shipped, **small, "val_fraction": 0.5})
    data.prepare()
    data.tables["val"] = data.tables["val"][:count]
    data.fixed_shapes = fixed_shapes
    return data


class Score(MeanMetric):
    """Mean distance of probabilities and labels that are not ignored."""

    def update(self, logits: Tensor, target: Tensor) -> None:
        super().update((logits.sigmoid() - target).abs()[~target.isnan()])

    def compute(self) -> Any:
        return {"distance": super().compute()}


def loss(logits: Tensor, target: Tensor) -> Tensor:
    known = ~target.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], target[known])


class Network(nn.Sequential):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.float() / 255)


def task() -> Task:
    torch.manual_seed(0)
    model = Network(nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_LABELS))
    optimizer = partial(torch.optim.SGD, lr=0.01)
    return Task(model=model, loss=loss, metrics=Score, optimizer=optimizer)


def trainer(folder: Path) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_several_floats_per_image_reach_the_batch_and_padding_is_nan() -> None:
    data = prepared(6, fixed_shapes=True)
    first, last = data.val_dataloader()
    assert first["target"].dtype == last["target"].dtype == torch.float32
    assert last["index"].tolist() == [4, 5, -1, -1]
    expected = torch.from_numpy(data.targets_of(data.tables["val"]))
    assert torch.equal(torch.cat([first["target"], last["target"][:2]]), expected)
    assert last["target"][2:].isnan().all()
    assert last["target"].shape == (4, NUM_LABELS)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_task_trains_on_several_floats_per_image_and_padding_changes_no_score(
    tmp_path: Path,
) -> None:
    scores = []
    for fixed_shapes in (False, True):
        data, network = prepared(7, fixed_shapes=fixed_shapes), task()
        fitted = trainer(tmp_path)
        fitted.fit(network, datamodule=data)
        scores.append({name: float(value) for name, value in fitted.callback_metrics.items()})
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert {"train/loss", "val/loss", "train/distance", "val/distance"} <= set(scores[0])
    assert 0 < scores[0]["val/distance"] < 1


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16, np.float16])
def test_padding_of_several_labels_is_ignored_whatever_their_type(kind: Any) -> None:
    plain = prepared(6, fixed_shapes=True).dataset("val")
    labels = np.ones((6, NUM_LABELS), kind)
    data = SampleDataset(
        samples=plain.samples,
        source=plain.source,
        transform=plain.transform,
        seed=0,
        targets=labels,
    )
    padding = data[0, -1]["target"]
    assert (padding.dtype, padding.shape) == (kind, (NUM_LABELS,))
    ignored = np.isnan(padding) if kind is np.float16 else padding == IGNORE_INDEX
    assert ignored.all()


@pytest.mark.parametrize("kind", [bool, np.int8])
def test_targets_that_cannot_be_ignored_are_refused(kind: Any) -> None:
    plain = prepared(6, fixed_shapes=True).dataset("val")
    options = {"samples": plain.samples, "source": plain.source, "transform": plain.transform}
    with pytest.raises(ValueError, match="expected targets that can hold the ignore index, got"):
        SampleDataset(**options, seed=0, targets=np.ones(6, kind))
    with pytest.raises(ValueError, match="expected 6 targets, got 5"):
        SampleDataset(**options, seed=0, targets=np.ones(5, np.uint8))
