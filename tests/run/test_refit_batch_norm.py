"""Gaps between training and validation that batch-norm statistics explain."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from medvision.hardware import choose_plan
from medvision.run.config.store import CONF
from medvision.run.training.build import build_data, validate_with_refit
from medvision.tasks import ClassificationTask


class Brightness(nn.Module):
    """Calls images bright that are brighter than the mean image, as batch norm knows it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(image.float()).mean((1, 2, 3))[:, None]


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    for split in ("train", "val", "test"):
        for name, grey in (("bright", 200), ("dark", 50)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(6):
                image = np.full((32, 32), grey + number, np.uint8)
                cv2.imwrite(str(folder / f"{number}.png"), image)
    keys = [
        "experiment=classification",
        f"data.root={tmp_path / 'data'}",
        "data.image_size=32",
        "data.num_workers=0",
        "data.batch_size=4",
        "data.class_names=[dark,bright]",
        "trainer.precision=32",
    ]
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("train", keys)


def refit(cfg: Any, norm: nn.Module, root: Path) -> tuple[dict[str, float], nn.Module]:
    data = build_data(cfg.data)
    data.prepare()
    task = ClassificationTask(model=Brightness(norm).eval(), class_names=data.class_names)
    plan = choose_plan(accelerator="cpu", precision="32", memory_format="auto", deterministic=True)
    return validate_with_refit(cfg, plan, task, data, root=root), task.model


def test_scores_with_statistics_of_the_validation_images(cfg: Any, tmp_path: Path) -> None:
    """Batches hold images of one class: only the mean over all of them tells the classes apart."""
    norm: Any = nn.BatchNorm2d(3, affine=False, momentum=0.3)
    norm.running_mean.fill_(255.0)  # brighter than every image: none is called bright
    norm.num_batches_tracked.fill_(7)
    scores, model = refit(cfg, norm, tmp_path)
    assert scores["val/balanced_accuracy"] == 1.0
    assert not model.training
    assert not norm.training
    assert (norm.momentum, norm.num_batches_tracked.item()) == (0.3, 7)
    assert torch.equal(norm.running_mean, torch.full((3,), 255.0))
    assert torch.equal(norm.running_var, torch.ones(3))


@pytest.mark.parametrize(
    "norm",
    [
        nn.Identity(),
        nn.GroupNorm(1, 3),
        nn.BatchNorm2d(3, affine=False, track_running_stats=False),
    ],
)
def test_networks_without_running_statistics_have_none(
    cfg: Any, tmp_path: Path, norm: nn.Module
) -> None:
    assert refit(cfg, norm, tmp_path)[0] == {}


def test_a_batch_with_one_value_of_each_channel_is_left_out(cfg: Any, tmp_path: Path) -> None:
    """Batch norm raises an error for it in training: here it is the second of two."""
    cfg.data.batch_size = 11  # of 12 validation images
    norm: Any = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3, affine=False))
    norm[1].running_mean.fill_(255.0)
    scores, _ = refit(cfg, norm, tmp_path)
    assert scores["val/balanced_accuracy"] == 1.0
    assert not norm[1]._forward_pre_hooks
    assert torch.equal(norm[1].running_mean, torch.full((3,), 255.0))
