from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medvision.metrics import (
    SegmentationScores,
    mean_interval,
    pixel_confusion,
    pixel_histogram,
    pooled_score_intervals,
)
from medvision.metrics.intervals import mean_of_intervals
from medvision.metrics.overlap import foreground_logit, merged_bins, rank_groups
from medvision.metrics.pooled_intervals import pooled_scores
from medvision.types import IGNORE_INDEX

torch.set_num_threads(1)

NAMES = ("dice_global", "iou_global", "accuracy", "precision", "recall", "specificity", "auroc")
Counts = tuple[NDArray[np.int64], NDArray[np.int64]]


def random_batch(
    num_images: int, num_classes: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Partly agreeing logits and targets of 12 x 10 pixels, every twelfth pixel ignored."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, 12, 10)
    target = torch.randint(num_classes, shape, generator=generator)
    agreeing = torch.nn.functional.one_hot(target, num_classes).movedim(-1, 1).float()
    channels = slice(1, 2) if num_classes == 2 else slice(None)
    logits = torch.randn((num_images, num_classes, 12, 10), generator=generator) + agreeing
    target[torch.rand(shape, generator=generator) < 1 / 12] = IGNORE_INDEX
    return logits[:, channels] - (0.5 if num_classes == 2 else 0), target


def count(logits: torch.Tensor, target: torch.Tensor) -> Counts:
    """Confusion and histogram of every image."""
    foreground = torch.where(target == IGNORE_INDEX, 2, (target > 0).long())
    images = zip(foreground_logit(logits), foreground, strict=True)
    histogram = torch.stack([pixel_histogram(logit[None], label[None]) for logit, label in images])
    group = rank_groups(histogram.sum(0), most=10**6)  # without the empty bins
    return pixel_confusion(logits, target).numpy(), merged_bins(histogram, group).numpy()


def draw(rng: np.random.Generator, size_px: NDArray[np.int64], ease: NDArray[np.float64]) -> Counts:
    """Binary images of 4096 pixels with one lesion each, detected in part."""
    found = rng.binomial(size_px, rng.beta(20 * ease, 20 * (1 - ease)))
    false = rng.binomial(4096 - size_px, rng.beta(2, 38, len(size_px)))
    rows = [[4096 - size_px - false, false], [size_px - found, found]]
    confusion = np.moveaxis(np.array(rows), -1, 0)
    return confusion, confusion


def lesions(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Sizes in pixels, about 400 +- 200."""
    return np.minimum(rng.gamma(4, 100, size).astype(np.int64) + 1, 3000)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_score_is_that_of_the_epoch(num_classes: int) -> None:
    logits, target = random_batch(9, num_classes)
    metric = SegmentationScores(class_names=[f"class {k}" for k in range(num_classes)])
    metric.update(logits, target)
    expected = {name: float(value) for name, value in metric.compute().items() if name in NAMES}
    confusion, histogram = count(logits, target)
    scores = pooled_scores(confusion.sum(0), histogram.sum(0))
    assert tuple(scores) == NAMES
    assert scores == pytest.approx(expected, abs=1e-6)
    alone = pooled_score_intervals(confusion, histogram, groups=[0] * 9)
    assert np.isnan(list(alone.values())).all()  # a single group shows no spread


def test_a_score_is_the_weighted_mean_of_the_images() -> None:
    rng = np.random.default_rng(1)
    confusion, histogram = draw(rng, lesions(rng, 40), rng.beta(8, 2, 40))
    intervals = pooled_score_intervals(confusion, histogram)
    overlap, predicted, labelled = (
        confusion[:, 1, 1],
        confusion[:, :, 1].sum(1),
        confusion[:, 1].sum(1),
    )
    ratios = {
        "recall": (overlap, labelled),
        "precision": (overlap, predicted),
        "dice_global": (2 * overlap, predicted + labelled),
        "accuracy": (confusion[:, 0, 0] + overlap, np.full(40, 4096)),
    }
    for name, (over, under) in ratios.items():
        assert intervals[name] == mean_interval(over / under, weights=under)


def test_classes_are_combined_as_independent_parts() -> None:
    confusion, histogram = count(*random_batch(30, 3))
    low, high = pooled_score_intervals(confusion, histogram)["recall"]
    ends, values = [], []
    for k in (1, 2):
        over, under = confusion[:, k, k], confusion[:, k].sum(1)
        ends.append(mean_interval(over / under, weights=under))
        values.append(over.sum() / under.sum())
    half = mean_of_intervals(values, ends)
    assert (low, high) == pytest.approx(half, rel=0.05)  # up to their correlation


def test_the_area_rests_on_the_images_with_foreground() -> None:
    rng = np.random.default_rng(3)
    bins = np.stack([rng.integers(0, 50, (25, 16)), rng.integers(0, 9, (25, 16))], axis=1)
    bins[:, 1] *= np.arange(1, 17)
    confusion = bins.reshape(25, 2, 2, 8).sum(3)
    low, high = pooled_score_intervals(confusion, bins)["auroc"]
    value = pooled_scores(confusion.sum(0), bins.sum(0))["auroc"]
    areas = [pooled_scores(confusion.sum(0), bins.sum(0) - of)["auroc"] for of in bins]
    error = np.std(areas) * np.sqrt(24)
    # beyond Student's: an image may rank all of its pixels wrong, or right
    assert low < value - 2.06 * error < value + 2.06 * error < high < 1


def test_images_of_one_size_have_the_interval_of_a_mean() -> None:
    rng = np.random.default_rng(2)
    confusion, histogram = draw(rng, np.full(50, 400), rng.beta(8, 2, 50))
    intervals = pooled_score_intervals(confusion, histogram)
    recall, specificity = confusion[:, 1, 1] / 400, confusion[:, 0, 0] / 3696
    assert intervals["recall"] == pytest.approx(mean_interval(recall), abs=1e-9)
    assert intervals["specificity"] == pytest.approx(mean_interval(specificity), abs=1e-9)


def test_groups_are_images_of_their_summed_counts() -> None:
    confusion, histogram = count(*random_batch(30, 3))
    groups = [f"patient {row % 10}" for row in range(30)]
    summed = confusion.reshape(3, 10, 3, 3).sum(0), histogram.reshape(3, 10, 2, -1).sum(0)
    assert pooled_score_intervals(confusion, histogram, groups=groups) == pooled_score_intervals(
        *summed
    )


@pytest.mark.slow
def test_recall_and_dice_are_covered_as_promised() -> None:
    rng = np.random.default_rng(0)
    everyone = draw(rng, lesions(rng, 400_000), rng.beta(8, 2, 400_000))
    truth = pooled_scores(*(counts.sum(0) for counts in everyone))
    covered = {"recall": 0, "dice_global": 0}
    for _ in range(300):
        counts = draw(rng, lesions(rng, 60), rng.beta(8, 2, 60))
        intervals = pooled_score_intervals(*counts)
        for name in covered:
            covered[name] += intervals[name][0] <= truth[name] <= intervals[name][1]
    for hits in covered.values():
        assert 0.92 <= hits / 300 <= 0.99


def test_images_of_one_patient_require_their_groups() -> None:
    rng = np.random.default_rng(4)
    patient = np.repeat(np.arange(40), 4)
    covered = []
    for _ in range(150):
        counts = draw(rng, lesions(rng, 160), rng.beta(8, 2, 40)[patient])  # recall is 0.8
        ends = [
            pooled_score_intervals(*counts, groups=groups)["recall"] for groups in (patient, None)
        ]
        covered.append([low <= 0.8 <= high for low, high in ends])
    with_groups, without_groups = np.mean(covered, axis=0)
    assert 0.91 <= with_groups <= 1
    assert without_groups < 0.85


@pytest.mark.parametrize("num_classes", [2, 4])
def test_ordinary_scores_lie_within_their_intervals(num_classes: int) -> None:
    confusion, histogram = count(*random_batch(20, num_classes, seed=3))
    scores = pooled_scores(confusion.sum(0), histogram.sum(0))
    for name, (low, high) in pooled_score_intervals(confusion, histogram).items():
        assert 0 < low < scores[name] < high < 1
        assert high - low < 0.25


def test_a_single_image_has_scores_by_hand_and_no_interval() -> None:
    counts = np.array([[[80, 5], [10, 5]]])
    expected = {
        "dice_global": 0.4,
        "iou_global": 0.25,
        "accuracy": 0.85,
        "precision": 0.5,
        "recall": 1 / 3,
        "specificity": 80 / 85,
        "auroc": (80 * 5 + (80 * 10 + 5 * 5) / 2) / (85 * 15),
    }
    assert pooled_scores(counts[0], counts[0]) == pytest.approx(expected, abs=1e-8)
    assert np.isnan(list(pooled_score_intervals(counts, counts).values())).all()


@pytest.mark.parametrize(
    ("confusion", "undefined"),
    [
        pytest.param(
            [[9, 0], [0, 0]],
            {"dice_global", "iou_global", "precision", "recall", "auroc"},
            id="no-foreground",
        ),
        pytest.param([[7, 2], [0, 0]], {"recall", "auroc"}, id="false-foreground"),
        pytest.param([[0, 0], [3, 4]], {"specificity", "auroc"}, id="no-background"),
    ],
)
def test_a_score_without_images_to_count_is_undefined(
    confusion: list[list[int]], undefined: set[str]
) -> None:
    counts = np.array([confusion] * 12)
    intervals = pooled_score_intervals(counts, counts)
    assert {name for name, ends in intervals.items() if np.isnan(ends).all()} == undefined


def test_empty_sets_have_no_foreground_to_measure() -> None:
    counts = np.array([[[9, 0], [0, 0]]] * 12)
    intervals = pooled_score_intervals(counts, counts)
    assert np.isnan([intervals["dice_global"], intervals["recall"]]).all()
    assert intervals["accuracy"] == intervals["specificity"] == mean_interval([1.0] * 12)


def test_a_score_of_a_single_image_has_no_interval() -> None:
    counts = np.array([[[100, 0], [0, 0]]] * 12)
    counts[3] = [[90, 0], [4, 6]]
    intervals = pooled_score_intervals(counts, counts)
    assert np.isnan(intervals["recall"]).all()
    assert intervals["accuracy"][0] < 1 - 4 / 1200 < intervals["accuracy"][1] <= 1


def test_perfect_images_have_a_width() -> None:
    histogram = np.zeros((8, 2, 256), dtype=np.int64)
    histogram[:, 0, :100], histogram[:, 1, 200:] = 10**9, 3 * 10**9 + 1
    confusion = histogram.reshape(8, 2, 2, 128).sum(3)
    for ends in pooled_score_intervals(confusion, histogram).values():
        assert ends == pytest.approx(mean_interval([1.0] * 8), abs=1e-9)


def test_an_image_of_ignored_pixels_is_not_counted() -> None:
    confusion, histogram = count(*random_batch(12, 3))
    holes = [np.insert(x, [2, 9], 0, axis=0) for x in (confusion, histogram)]
    expected = pooled_score_intervals(confusion, histogram)
    assert pooled_score_intervals(*holes) == expected
    members = np.insert(np.arange(12) // 3, [2, 9], 99)
    assert pooled_score_intervals(*holes, groups=members) == pooled_score_intervals(
        confusion, histogram, groups=np.arange(12) // 3
    )


@pytest.mark.parametrize("num_images", [0, 3])
def test_scores_of_no_images_are_undefined(num_images: int) -> None:
    intervals = pooled_score_intervals(
        np.zeros((num_images, 3, 3), dtype=np.int64),
        np.zeros((num_images, 2, 256), dtype=np.int64),
        groups=["p"] * num_images,
    )
    assert tuple(intervals) == NAMES
    assert np.isnan(list(intervals.values())).all()


def test_the_order_of_the_images_does_not_matter() -> None:
    confusion, histogram = count(*random_batch(20, 2))
    first = pooled_score_intervals(confusion, histogram)
    assert pooled_score_intervals(confusion[::-1], histogram[::-1]) == {
        name: pytest.approx(ends, abs=1e-9) for name, ends in first.items()
    }


def test_intervals_widen_with_confidence() -> None:
    counts = count(*random_batch(20, 2))
    narrow, wide = (pooled_score_intervals(*counts, confidence=level) for level in (0.5, 0.99))
    for name in NAMES:
        assert wide[name][0] < narrow[name][0] < narrow[name][1] < wide[name][1]


@pytest.mark.parametrize(("num_images", "limit_s"), [(100, 1), (1000, 4)])
def test_many_images_are_fast(num_images: int, limit_s: float) -> None:
    histogram = np.random.default_rng(5).integers(1000, size=(num_images, 2, 256))
    confusion = histogram.reshape(num_images, 2, 2, 128).sum(3)
    started_s = time.process_time()
    pooled_score_intervals(confusion, histogram)
    assert time.process_time() - started_s < limit_s  # 0.04 and 0.1 s on an idle core


def test_wrong_arguments_are_named() -> None:
    confusion, histogram = count(*random_batch(3, 2))
    with pytest.raises(ValueError, match=r"shape \(N, K, K\), K >= 2, got \(2, 2\)"):
        pooled_score_intervals(confusion[0], histogram)
    with pytest.raises(ValueError, match=r"shape \(3, 2, B\), got \(2, 2, \d+\)"):
        pooled_score_intervals(confusion, histogram[:2])
    with pytest.raises(ValueError, match="expected a confusion of non-negative integers"):
        pooled_score_intervals(confusion / 2, histogram)
    with pytest.raises(ValueError, match="expected a histogram of non-negative integers"):
        pooled_score_intervals(confusion, -histogram)
    with pytest.raises(ValueError, match="to count the same pixels"):
        pooled_score_intervals(confusion, histogram[::-1])
    with pytest.raises(ValueError, match="expected 3 groups, got 1"):
        pooled_score_intervals(confusion, histogram, groups=["a"])
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        pooled_score_intervals(confusion, histogram, confidence=95)
