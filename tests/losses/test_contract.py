"""Contract of every loss in ``conf/loss``."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.types import IGNORE_INDEX

CONF = Path(__file__).parents[2] / "conf"
FOR_IMAGES = ("bce", "bce_smooth", "focal")
NAMES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["experiment=polyp_unet", f"loss={name}"])


@cache
def plain(name: str, num_classes: int) -> Any:
    """Resolved node of the loss, without interpolations."""
    config = composed(name).copy()
    config.data.num_classes = num_classes
    return OmegaConf.to_container(config.loss, resolve=True)


def make(name: str, num_classes: int) -> nn.Module:
    return instantiate(plain(name, num_classes))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[2, 4])
def num_classes(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def loss(name: str, num_classes: int) -> nn.Module:
    return make(name, num_classes)


@pytest.fixture
def batch(num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1 if num_classes == 2 else num_classes, 5, 6, generator=generator)
    target = torch.randint(0, num_classes, (3, 5, 6), generator=generator)
    return logits, target.to(torch.uint8)


def test_every_config_is_found() -> None:
    assert {"bce", "bce_dice", "dice", "focal", "jaccard", "tversky"} <= set(NAMES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_loss_is_a_float32_scalar(
    loss: nn.Module, batch: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    value = loss(batch[0], batch[1].to(dtype))
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value > 0


def test_ignored_pixels_change_nothing(loss: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    target[:, :, 4:] = IGNORE_INDEX
    other = logits.clone()
    other[..., 4:] = 9.0
    expected = loss(logits[..., :4], target[..., :4])
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(loss(other, target), expected)


def test_ignored_pixels_get_no_gradient(loss: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    target[:, 0] = IGNORE_INDEX
    logits.requires_grad_()
    loss(logits, target).backward()
    assert not logits.grad[:, :, 0].any()
    assert logits.grad[:, :, 1:].any()


def test_a_batch_of_ignored_pixels_has_zero_loss(
    loss: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    logits, target = batch
    logits.requires_grad_()
    value = loss(logits, torch.full_like(target, IGNORE_INDEX))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("label", [0, 1])
def test_gradient_is_finite_when_all_pixels_are_of_one_class(
    loss: nn.Module, batch: tuple[Tensor, Tensor], label: int, scale: float
) -> None:
    logits, target = batch
    logits = (logits * scale).requires_grad_()
    value = loss(logits, torch.full_like(target, label))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_a_perfect_prediction_costs_only_the_label_smoothing(
    loss: nn.Module, batch: tuple[Tensor, Tensor], num_classes: int, name: str
) -> None:
    target = batch[1].long()
    labels = torch.nn.functional.one_hot(target, num_classes).movedim(-1, 1)
    logits = (labels[:, 1:] if num_classes == 2 else labels) * 200.0 - 100.0
    # 5 % of each label is spread over all classes; the others are 100 away in one logit, else 200
    share = 0.05 * (num_classes - 1) / num_classes if name == "bce_smooth" else 0
    expected = share * (100 if num_classes == 2 else 200)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert loss(-logits, target) > expected + 0.5


def test_order_of_images_does_not_matter(loss: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    torch.testing.assert_close(loss(logits.flip(0), target.flip(0)), loss(logits, target))


def test_bfloat16_logits_give_a_float32_loss_of_the_rounded_logits(
    loss: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    rounded, target = batch[0].bfloat16(), batch[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(rounded, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(rounded.float(), target))


def test_loss_falls_along_its_gradient(loss: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0].requires_grad_(), batch[1]
    value = loss(logits, target)
    value.backward()
    assert loss(logits - 0.1 * logits.grad, target) < value


def test_shape_mismatch_names_both_shapes(loss: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"got \(3, ., 5, 6\) and \(3, 5, 5\)"):
        loss(batch[0], batch[1][..., :5])


def test_logits_for_other_classes_are_refused(
    loss: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ValueError, match="expected logits"):
        loss(torch.zeros(3, 3, 5, 6), batch[1])


def test_region_losses_refuse_targets_of_whole_images(name: str, num_classes: int) -> None:
    loss = make(name, num_classes)
    logits = torch.zeros(3, 1 if num_classes == 2 else num_classes)
    target = torch.tensor([0, 1, 1], dtype=torch.uint8)
    if name in FOR_IMAGES:
        assert loss(logits, target) > 0
    else:
        with pytest.raises(MedvisionError, match=r"\(loss\); use loss=bce or loss=focal"):
            loss(logits, target)


def test_image_targets_cost_as_much_as_single_pixels(num_classes: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 1 if num_classes == 2 else num_classes)
    target = torch.tensor([0, 1, 1, 0, IGNORE_INDEX, 1], dtype=torch.uint8)
    for name in FOR_IMAGES:
        loss = make(name, num_classes)
        pixels = loss(logits[..., None, None], target[:, None, None])
        torch.testing.assert_close(loss(logits, target), pixels)
        assert loss(logits, torch.full_like(target, IGNORE_INDEX)) == 0


def test_mixed_labels_need_cross_entropy(name: str, num_classes: int) -> None:
    loss = make(name, num_classes)
    logits = torch.zeros(3, 1 if num_classes == 2 else num_classes)
    mixed = torch.full((3, num_classes), 1 / num_classes)
    if name in ("bce", "bce_smooth"):
        assert loss(logits, mixed).item() == pytest.approx(math.log(num_classes))
    else:
        with pytest.raises(MedvisionError, match=r"MixUp and CutMix need loss=bce"):
            loss(logits, mixed)


def test_one_class_is_refused(name: str) -> None:
    with pytest.raises(Exception, match="at least 2 classes") as caught:
        make(name, 1)
    assert isinstance(caught.value.__cause__, MedvisionError)  # within Hydra's error
