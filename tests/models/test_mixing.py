from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medvision.errors import MedvisionError
from medvision.models import BatchMixing


def batch(num_samples: int = 4, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 256, (num_samples, 3, 12, 16), dtype=torch.uint8)
    return image, torch.arange(num_samples) % num_classes


def partners(values: Tensor) -> Tensor:
    """Return the partner of each sample of an even batch."""
    return values.flip(0)


def test_the_target_share_is_that_of_the_image_in_mixup() -> None:
    image, target = batch()
    for step in range(5):
        mixed, shares = BatchMixing(mixup_alpha=1.0, num_classes=4, seed=0)(image, target, step)
        lam = shares[0, 0]
        assert 0 < lam < 1
        unit = image.float() / 255
        torch.testing.assert_close(mixed, lam * unit + (1 - lam) * partners(unit))
        one_hot = torch.eye(4)
        torch.testing.assert_close(shares, lam * one_hot + (1 - lam) * partners(one_hot))


def test_the_target_share_is_that_of_the_pixels_in_cutmix() -> None:
    image = torch.stack([torch.full((1, 12, 16), 10 * i, dtype=torch.uint8) for i in range(4)])
    mixing = BatchMixing(cutmix_alpha=1.0, num_classes=4, seed=0)
    seen = set()
    for step in range(10):
        mixed, shares = mixing(image, torch.arange(4), step)
        kept = (mixed == image.float() / 255).float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(shares.diagonal(), kept)
        replaced = mixed != image.float() / 255
        assert (mixed[replaced] == (partners(image).float() / 255).expand_as(mixed)[replaced]).all()
        seen.add(round(float(kept[0]), 4))
    assert len(seen) > 5


def test_both_alphas_draw_one_of_the_two_each_batch() -> None:
    image, target = batch()
    mixing = BatchMixing(mixup_alpha=1.0, cutmix_alpha=1.0, num_classes=4, seed=0)
    unit = image.float() / 255
    pasted = [
        bool(((mixed == unit) | (mixed == partners(unit))).all())
        for mixed, _ in (mixing(image, target, step) for step in range(20))
    ]
    assert 0 < sum(pasted) < 20


def test_shares_add_up_to_one_and_the_image_stays_in_range() -> None:
    image, target = batch(6)
    image[:] = 255
    for step in range(20):
        mixed, shares = BatchMixing(mixup_alpha=0.4, num_classes=4, seed=1)(image, target, step)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
        assert mixed.dtype == shares.dtype == torch.float32
        assert mixed.min() >= 0
        assert mixed.max() <= 1


@pytest.mark.parametrize("num_samples", [1, 3, 5])
def test_odd_batches_are_mixed_with_the_last_image_repeated(num_samples: int) -> None:
    image, target = batch(num_samples)
    mixing = BatchMixing(mixup_alpha=1.0, num_classes=4, seed=0)
    mixed, shares = mixing(image, target, 3)
    twice = torch.cat([image, image[-1:]]), torch.cat([target, target[-1:]])
    even_mixed, even_shares = mixing(*twice, 3)
    assert torch.equal(mixed, even_mixed[:-1])
    assert torch.equal(shares, even_shares[:-1])
    if num_samples == 1:
        torch.testing.assert_close(mixed, image.float() / 255)


def test_mixing_depends_on_seed_and_step_and_not_on_the_global_state() -> None:
    image, target = batch()
    np.random.seed(5)  # noqa: NPY002 - the state that must survive
    expected = np.random.rand(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    options = {"mixup_alpha": 1.0, "num_classes": 4}
    first, _ = BatchMixing(**options, seed=3)(image, target, 7)
    assert np.array_equal(np.random.rand(3), expected)  # noqa: NPY002
    assert torch.equal(first, BatchMixing(**options, seed=3)(image, target, 7)[0])
    assert not torch.equal(first, BatchMixing(**options, seed=3)(image, target, 8)[0])
    assert not torch.equal(first, BatchMixing(**options, seed=4)(image, target, 7)[0])


def test_the_images_given_are_not_changed() -> None:
    image, target = batch()
    before = image.clone()
    BatchMixing(cutmix_alpha=1.0, num_classes=4, seed=0)(image, target, 0)
    assert torch.equal(image, before)


def test_without_an_alpha_nothing_is_mixed() -> None:
    image, target = batch()
    mixed, shares = BatchMixing(num_classes=4, seed=0)(image, target, 0)
    assert torch.equal(mixed, image.float() / 255)
    assert torch.equal(shares, torch.eye(4))


def test_channels_last_is_kept() -> None:
    image, target = batch()
    image = image.to(memory_format=torch.channels_last)
    mixed, _ = BatchMixing(mixup_alpha=1.0, num_classes=4, seed=0)(image, target, 0)
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("key", ["mixup_alpha", "cutmix_alpha"])
def test_a_negative_alpha_is_refused(key: str) -> None:
    with pytest.raises(MedvisionError, match=rf"got -1 \({key}\)"):
        BatchMixing(**{key: -1}, num_classes=2, seed=0)


@pytest.mark.parametrize(
    ("image", "target"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4)),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3)),
    ],
)
def test_batches_other_than_uint8_images_and_classes_are_refused(
    image: Tensor, target: Tensor
) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 images \(N, C, H, W\) and targets"):
        BatchMixing(num_classes=2, seed=0)(image, target, 0)
