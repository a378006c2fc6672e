from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medvision.metrics import (
    SegmentationScores,
    bootstrap_mean_interval,
    pixel_confusion,
    pixel_histogram,
    pooled_score_intervals,
)
from medvision.metrics.intervals import expanded_tail
from medvision.metrics.overlap import foreground_probability
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
    histogram = pixel_histogram(foreground_probability(logits), foreground)
    return pixel_confusion(logits, target).numpy(), histogram.numpy()


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


def divide(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def scores_by_loops(confusion: NDArray[np.int64], histogram: NDArray[np.int64]) -> list[float]:
    """The seven scores from summed counts, computed by plain loops."""
    classes = range(len(confusion))
    total = sum(int(confusion[t, p]) for t in classes for p in classes)
    table: dict[str, list[float]] = {name: [] for name in NAMES}
    for k in classes[1:]:
        tp = int(confusion[k, k])
        fp = sum(int(confusion[t, k]) for t in classes) - tp
        fn = sum(int(confusion[k, p]) for p in classes) - tp
        table["dice_global"].append((2 * tp + 1e-7) / (2 * tp + fp + fn + 1e-7))
        table["iou_global"].append((tp + 1e-7) / (tp + fp + fn + 1e-7))
        table["precision"].append(divide(tp, tp + fp))
        table["recall"].append(divide(tp, tp + fn))
        table["specificity"].append(divide(total - tp - fp - fn, total - tp - fn))
    table["accuracy"].append(divide(sum(int(confusion[k, k]) for k in classes), total))
    negatives, positives = ([int(x) for x in row] for row in histogram)
    won = sum(
        n * p * (1.0 if high > low else 0.5 if high == low else 0.0)
        for low, n in enumerate(negatives)
        for high, p in enumerate(positives)
    )
    table["auroc"].append(divide(won, sum(negatives) * sum(positives)))
    means = []
    for values in table.values():
        defined = [value for value in values if value == value]
        means.append(divide(sum(defined), len(defined)))
    return means


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
    for name, (low, high) in pooled_score_intervals(confusion, histogram, groups=[0] * 9).items():
        assert low == high == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_plain_loop_gives_the_same_intervals(num_classes: int, grouped: bool) -> None:
    logits, target = random_batch(7, num_classes, seed=1)
    target[2:] = 0  # without images 0 and 1, recall and AUROC are undefined
    target[1, target[1] == 3] = 0  # without image 0, the recall of class 3 is
    confusion, histogram = count(logits, target)
    groups = ["b", "a", "b", "c", "a", "c", "d"] if grouped else list(range(7))
    members = [[i for i in range(7) if groups[i] == name] for name in dict.fromkeys(groups)]

    table = []
    for rows in np.random.default_rng(5).integers(len(members), size=(40, len(members))):
        images = [i for row in rows for i in members[row]]
        table.append(scores_by_loops(sum(confusion[images]), sum(histogram[images])))
    tail = expanded_tail(len(members), 0.9)
    expected = np.nanquantile(np.array(table), [tail, 1 - tail], axis=0).T

    intervals = pooled_score_intervals(
        confusion,
        histogram,
        groups=groups if grouped else None,
        confidence=0.9,
        num_resamples=40,
        seed=5,
    )
    assert np.isnan(table).any()
    assert np.array(list(intervals.values())) == pytest.approx(expected, abs=1e-12)


def test_images_of_one_size_have_the_interval_of_a_mean() -> None:
    rng = np.random.default_rng(2)
    confusion, histogram = draw(rng, np.full(50, 400), rng.beta(8, 2, 50))
    intervals = pooled_score_intervals(confusion, histogram, seed=3)
    recall, specificity = confusion[:, 1, 1] / 400, confusion[:, 0, 0] / 3696
    assert intervals["recall"] == pytest.approx(bootstrap_mean_interval(recall, seed=3), abs=1e-12)
    assert intervals["specificity"] == pytest.approx(
        bootstrap_mean_interval(specificity, seed=3), abs=1e-12
    )


def test_groups_are_images_of_their_summed_counts() -> None:
    confusion, histogram = count(*random_batch(30, 3))
    groups = [f"patient {row % 10}" for row in range(30)]
    summed = confusion.reshape(3, 10, 3, 3).sum(0), histogram.reshape(3, 10, 2, 256).sum(0)
    assert pooled_score_intervals(confusion, histogram, groups=groups) == pooled_score_intervals(
        *summed
    )


@pytest.mark.slow
def test_recall_and_dice_are_covered_as_promised() -> None:
    rng = np.random.default_rng(0)
    everyone = draw(rng, lesions(rng, 400_000), rng.beta(8, 2, 400_000))
    truth = pooled_scores(*(counts.sum(0) for counts in everyone))
    covered = {"recall": 0, "dice_global": 0}
    for seed in range(1500):
        counts = draw(rng, lesions(rng, 60), rng.beta(8, 2, 60))
        intervals = pooled_score_intervals(*counts, num_resamples=600, seed=seed)
        for name in covered:
            covered[name] += intervals[name][0] <= truth[name] <= intervals[name][1]
    for hits in covered.values():
        assert 0.93 <= hits / 1500 <= 0.97


def test_images_of_one_patient_require_their_groups() -> None:
    rng = np.random.default_rng(4)
    patient = np.repeat(np.arange(40), 4)
    covered = []
    for seed in range(300):
        counts = draw(rng, lesions(rng, 160), rng.beta(8, 2, 40)[patient])  # recall is 0.8
        ends = [
            pooled_score_intervals(*counts, groups=groups, num_resamples=300, seed=seed)["recall"]
            for groups in (patient, None)
        ]
        covered.append([low <= 0.8 <= high for low, high in ends])
    with_groups, without_groups = np.mean(covered, axis=0)
    assert 0.90 <= with_groups <= 0.985
    assert without_groups < 0.8


@pytest.mark.parametrize("num_classes", [2, 4])
def test_ordinary_scores_lie_within_their_intervals(num_classes: int) -> None:
    confusion, histogram = count(*random_batch(20, num_classes, seed=3))
    scores = pooled_scores(confusion.sum(0), histogram.sum(0))
    for name, (low, high) in pooled_score_intervals(confusion, histogram).items():
        assert 0 < low < scores[name] < high < 1
        assert high - low < 0.2


def test_a_single_image_gives_points() -> None:
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
    for name, (low, high) in pooled_score_intervals(counts, counts).items():
        assert low == high == pytest.approx(expected[name], abs=1e-8)


@pytest.mark.parametrize(
    ("confusion", "undefined"),
    [
        pytest.param([[9, 0], [0, 0]], {"precision", "recall", "auroc"}, id="no-foreground"),
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


def test_empty_sets_agree() -> None:
    counts = np.array([[[9, 0], [0, 0]]] * 12)
    intervals = pooled_score_intervals(counts, counts)
    assert intervals["dice_global"] == intervals["iou_global"] == (1, 1)
    assert intervals["accuracy"] == intervals["specificity"] == (1, 1)


def test_a_score_of_a_single_image_is_a_point() -> None:
    counts = np.array([[[100, 0], [0, 0]]] * 12)
    counts[3] = [[90, 0], [4, 6]]
    intervals = pooled_score_intervals(counts, counts)
    assert intervals["recall"] == (0.6, 0.6)
    assert intervals["accuracy"][0] < 1 - 4 / 1200 < intervals["accuracy"][1] == 1


def test_perfect_images_score_1() -> None:
    histogram = np.zeros((8, 2, 256), dtype=np.int64)
    histogram[:, 0, :100], histogram[:, 1, 200:] = 10**9, 3 * 10**9 + 1
    confusion = histogram.reshape(8, 2, 2, 128).sum(3)
    assert pooled_score_intervals(confusion, histogram) == dict.fromkeys(NAMES, (1, 1))


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


def test_the_result_depends_only_on_the_seed() -> None:
    counts = count(*random_batch(20, 2))
    assert pooled_score_intervals(*counts, seed=1) == pooled_score_intervals(*counts, seed=1)
    first, second = (pooled_score_intervals(*counts, seed=seed) for seed in (1, 2))
    assert all(first[name] != second[name] for name in NAMES)


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
    with pytest.raises(ValueError, match=r"shape \(3, 2, B\), got \(2, 2, 256\)"):
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


def test_pooled_intervals_need_no_torch() -> None:
    program = "from medvision.metrics import pooled_score_intervals; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
