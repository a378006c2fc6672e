import itertools

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torchmetrics.functional as torchmetrics_functional
import torchmetrics.functional.segmentation as torchmetrics_segmentation
from monai.losses.dice import DiceLoss
from monai.metrics.meandice import compute_dice
from numpy.typing import NDArray
from torch import Tensor

from medvision.metrics import SegmentationScores, dice_by_convention

torch.set_num_threads(1)

Pairs = tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]


def blobs(num_images: int = 40, size: int = 32) -> Pairs:
    """Discs of random size, found with hazy, shifted and too cautious maps."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    probabilities, masks = [], []
    for _ in range(num_images):
        radius, centre = rng.uniform(2, 9), rng.uniform(10, 22, 2)
        distance = np.hypot(y - centre[0], x - centre[1])
        masks.append(distance < radius)
        found = np.hypot(y - centre[0] - rng.normal(0, 1), x - centre[1] - rng.normal(0, 1))
        logit = (radius * 0.9 - found) * 1.2 + rng.normal(0, 0.3, distance.shape)
        probabilities.append((0.02 + 0.98 / (1 + np.exp(-logit))).astype(np.float32))
    return probabilities, masks


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return blobs()


@pytest.fixture(scope="module")
def values(pairs: Pairs) -> dict[str, float]:
    return dice_by_convention(*pairs)


@pytest.fixture(scope="module")
def tensors(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Probabilities and masks as (N, 1, H, W)."""
    probabilities, masks = (torch.tensor(np.stack(side)).unsqueeze(1) for side in pairs)
    return probabilities, masks


def both_classes(foreground: Tensor) -> Tensor:
    """One-hot (N, 2, H, W) of a bool foreground (N, 1, H, W)."""
    return torch.cat([~foreground, foreground], dim=1).long()


def test_soft_is_the_dice_loss_of_monai(
    values: dict[str, float], tensors: tuple[Tensor, Tensor]
) -> None:
    loss = DiceLoss(smooth_nr=1.0, smooth_dr=1.0)(tensors[0], tensors[1].float())
    assert values["soft_smooth_1"] == pytest.approx(1 - loss.item(), abs=1e-6)


def test_mean_over_thresholds_follows_the_published_loop(
    values: dict[str, float], pairs: Pairs
) -> None:
    scores = []
    for probability, mask in zip(*pairs, strict=True):
        stretched = probability.astype(np.float64)
        stretched = (stretched - stretched.min()) / (stretched.max() - stretched.min())
        for step in range(256):
            predicted = stretched >= step / 255
            overlap = np.logical_and(predicted, mask).sum()
            scores.append(2 * overlap / (predicted.sum() + mask.sum()) if overlap else 0.0)
    assert values["mean_over_thresholds"] == pytest.approx(np.mean(scores), abs=1e-9)


def test_per_image_agrees_with_monai_smp_and_our_metric(
    values: dict[str, float], tensors: tuple[Tensor, Tensor]
) -> None:
    probabilities, masks = tensors
    monai = compute_dice((probabilities >= 0.5).long(), masks.long(), include_background=True)
    assert values["per_image"] == pytest.approx(monai.mean().item(), abs=1e-6)
    stats = smp.metrics.get_stats(probabilities, masks.long(), mode="binary", threshold=0.5)
    found = smp.metrics.f1_score(*stats, reduction="micro-imagewise")
    assert values["per_image"] == pytest.approx(found.item(), abs=1e-6)
    ours = SegmentationScores(class_names=("background", "disc"))
    ours.update(probabilities.logit(), masks[:, 0].to(torch.uint8))
    assert values["per_image"] == pytest.approx(ours.compute()["dice"].item(), abs=1e-6)
    assert values["pooled"] == pytest.approx(ours.compute()["dice_global"].item(), abs=1e-6)


def test_pooled_agrees_with_smp(values: dict[str, float], tensors: tuple[Tensor, Tensor]) -> None:
    stats = smp.metrics.get_stats(tensors[0], tensors[1].long(), mode="binary", threshold=0.5)
    found = smp.metrics.f1_score(*stats, reduction="micro").item()
    assert values["pooled"] == pytest.approx(found, abs=1e-6)


def test_best_threshold_is_the_best_of_256(
    values: dict[str, float], tensors: tuple[Tensor, Tensor]
) -> None:
    probabilities, masks = tensors
    scores = []
    for step in range(256):
        predicted = (probabilities >= step / 256).long()
        stats = smp.metrics.get_stats(predicted, masks.long(), mode="binary")
        scores.append(smp.metrics.f1_score(*stats, reduction="micro-imagewise").item())
    assert values["best_threshold_on_this_set"] == pytest.approx(max(scores), abs=1e-6)


def test_background_conventions_agree_with_torchmetrics(
    values: dict[str, float], tensors: tuple[Tensor, Tensor]
) -> None:
    predicted, masks = tensors[0] >= 0.5, tensors[1]
    per_image = torchmetrics_segmentation.dice_score(
        both_classes(predicted), both_classes(masks), num_classes=2, average="macro"
    )
    assert values["per_image_with_background"] == pytest.approx(per_image.mean().item(), abs=1e-6)
    arguments = (predicted.flatten().long(), masks.flatten().long(), "multiclass")
    pooled = torchmetrics_functional.f1_score(*arguments, average="macro", num_classes=2)
    assert values["pooled_with_background"] == pytest.approx(pooled.item(), abs=1e-6)
    micro = torchmetrics_functional.f1_score(*arguments, average="micro", num_classes=2)
    assert values["micro_with_background"] == pytest.approx(micro.item(), abs=1e-6)
    accuracy = (predicted == masks).float().mean().item()
    assert values["micro_with_background"] == pytest.approx(accuracy, abs=1e-6)


def test_values_by_hand() -> None:
    probabilities = [np.array([[0.75, 0.25], [0.25, 0.25]]), np.array([[0.5, 0.5, 0.0, 0.0]])]
    masks = [np.array([[True, True], [False, False]]), np.array([[True, False, False, False]])]
    # image 1 stretched: 1 0 0 0; image 2 stretched: 1 1 0 0; at threshold 0 all is predicted
    over_thresholds = [(2 * 2 / 6 + 255 * 2 / 3) / 256, (2 / 5 + 255 * 2 / 3) / 256]
    assert dice_by_convention(probabilities, masks) == pytest.approx(
        {
            "soft_smooth_1": ((2 * 1 + 1) / (1.5 + 2 + 1) + (2 * 0.5 + 1) / (1 + 1 + 1)) / 2,
            "mean_over_thresholds": sum(over_thresholds) / 2,
            "per_image": (2 / 3 + 2 / 3) / 2,
            "pooled": 4 / 6,
            # cut at or below 0.25 all of image 1 is predicted: 4/6 again
            "best_threshold_on_this_set": 2 / 3,
            "per_image_with_background": (2 / 3 + 4 / 5 + 2 / 3 + 4 / 5) / 4,
            "pooled_with_background": (4 / 6 + 8 / 10) / 2,
            "micro_with_background": 6 / 8,
        },
        abs=1e-6,
    )


def test_all_eight_differ_and_stand_in_the_known_order(values: dict[str, float]) -> None:
    assert len(values) == 8
    for first, second in itertools.combinations(values.values(), 2):
        assert abs(first - second) > 1e-3
    for left_out in ("pooled", "best_threshold_on_this_set"):  # either may be the larger
        rising = [value for name, value in values.items() if name != left_out]
        assert rising == sorted(rising)
    assert values["micro_with_background"] - values["soft_smooth_1"] > 0.1


def test_the_best_threshold_is_never_worse_than_a_half() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        probabilities, masks = rng.random((3, 6, 6)), rng.random((3, 6, 6)) < 0.4
        scores = dice_by_convention(list(probabilities), list(masks))
        assert scores["best_threshold_on_this_set"] >= scores["per_image"]


def test_order_and_8_bit_maps_read_back_change_nothing_that_is_cut_at_a_half(
    pairs: Pairs, values: dict[str, float]
) -> None:
    probabilities, masks = pairs
    reversed_values = dice_by_convention(probabilities[::-1], masks[::-1])
    assert reversed_values == pytest.approx(values, abs=1e-12)
    saved = [np.minimum(255, np.floor(256 * p)) / 256 for p in probabilities]
    read_back = dice_by_convention(saved, masks)
    for name in ("per_image", "pooled", "best_threshold_on_this_set", "micro_with_background"):
        assert read_back[name] == pytest.approx(values[name], abs=1e-12)


def test_empty_masks_found_empty_score_one_except_in_pranets_evaluation() -> None:
    empty = [np.zeros((3, 5), dtype=bool)]
    scores = dice_by_convention([np.full((3, 5), 0.1)], empty)
    assert scores.pop("mean_over_thresholds") == 0  # Dice is 0 there without an overlap
    assert scores.pop("soft_smooth_1") == pytest.approx(1 / (1.5 + 1))
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_full_masks_found_full_score_one() -> None:
    scores = dice_by_convention([np.ones((4, 4))], [np.ones((4, 4), dtype=bool)])
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_what_does_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 maps and 0 masks"):
        dice_by_convention([], [])
    with pytest.raises(
        ValueError, match=r"bool mask of shape \(2, 2\), got bool of shape \(2, 3\)"
    ):
        dice_by_convention([np.zeros((2, 2))], [np.zeros((2, 3), dtype=bool)])
    with pytest.raises(ValueError, match="got uint8"):
        dice_by_convention([np.zeros((2, 2))], [np.zeros((2, 2), dtype=np.uint8)])
