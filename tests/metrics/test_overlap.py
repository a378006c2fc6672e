import importlib.util
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from medvision.metrics import (
    SegmentationScores,
    dice_score,
    foreground_logit,
    foreground_probability,
    iou_score,
    per_image_scores,
    pixel_confusion,
    pixel_histogram,
    to_uint8,
)
from medvision.metrics.overlap import auroc, bin_logits, merged_bins, rank_groups
from medvision.types import IGNORE_INDEX

torch.set_num_threads(1)

BINARY = ("background", "polyp")
THREE = ("background", "liver", "tumour")


def logits_of(predicted: list[list[int]]) -> Tensor:
    """Binary logits (N, 1, 1, W) that predict the given pixels with certainty."""
    return (torch.tensor(predicted)[:, None, None, :] * 2 - 1) * 8.0


def random_batch(num_images: int, num_classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Partly agreeing logits and targets of 12 x 10 pixels, every twelfth pixel ignored."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, 12, 10)
    target = torch.randint(num_classes, shape, generator=generator).to(torch.uint8)
    channels = 1 if num_classes == 2 else num_classes
    logits = torch.randn((num_images, channels, 12, 10), generator=generator)
    if num_classes == 2:
        logits += target.unsqueeze(1).float() - 0.5
    else:
        logits += torch.nn.functional.one_hot(target.long(), num_classes).movedim(-1, 1)
    target[torch.rand(shape, generator=generator) < 1 / 12] = IGNORE_INDEX
    return logits, target


def scores_of(
    logits: Tensor, target: Tensor, names: tuple[str, ...] = BINARY, batch_size: int | None = None
) -> dict[str, Tensor]:
    metric = SegmentationScores(class_names=names)
    step = batch_size or len(logits)
    for start in range(0, len(logits), step):
        metric.update(logits[start : start + step], target[start : start + step])
    return metric.compute()


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True)


# values by hand


@pytest.mark.parametrize(
    ("overlap", "predicted", "labelled", "dice", "iou"),
    [
        pytest.param(2, 3, 4, 4 / 7, 2 / 5, id="part"),
        pytest.param(0, 0, 0, 1, 1, id="both-empty"),
        pytest.param(0, 5, 0, 1e-7 / 5, 1e-7 / 5, id="only-predicted"),
        pytest.param(0, 0, 5, 1e-7 / 5, 1e-7 / 5, id="only-labelled"),
        pytest.param(9, 9, 9, 1, 1, id="all"),
    ],
)
def test_dice_and_iou_from_sizes(
    overlap: int, predicted: int, labelled: int, dice: float, iou: float
) -> None:
    sizes = [torch.tensor(size) for size in (overlap, predicted, labelled)]
    assert dice_score(*sizes).item() == pytest.approx(dice, rel=1e-6)
    assert iou_score(*sizes).item() == pytest.approx(iou, rel=1e-6)


def test_binary_scores_by_hand() -> None:
    logits = logits_of([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    target = torch.tensor([[[1, 0, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 255, 0]]], dtype=torch.uint8)
    scores = scores_of(logits, target)
    # images: (overlap, predicted, labelled) = (1, 2, 1), (0, 0, 0), (2, 3, 2); 11 pixels count
    expected = {
        "dice": (2 / 3 + 1 + 4 / 5) / 3,
        "dice_present": (2 / 3 + 4 / 5) / 2,
        "iou": (1 / 2 + 1 + 2 / 3) / 3,
        "absence": 1,
        "dice_global": 6 / 8,
        "iou_global": 3 / 5,
        "accuracy": 9 / 11,
        "precision": 3 / 5,
        "recall": 1,
        "specificity": 6 / 8,
        "auroc": (1 + 6 / 8) / 2,
    }
    assert {name: value.item() for name, value in scores.items()} == pytest.approx(expected)
    assert all(value.dtype == torch.float32 and value.ndim == 0 for value in scores.values())


def test_three_class_scores_by_hand() -> None:
    predicted = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 1, 1]]])
    target = torch.tensor([[[0, 1, 2, 2]], [[0, 0, 1, 0]]], dtype=torch.uint8)
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1) * 9.0
    scores = {name: value.item() for name, value in scores_of(logits, target, THREE).items()}
    expected = {
        "dice/liver": (2 / 3 + 2 / 3) / 2,
        "dice/tumour": 2 / 3,  # absent from the second image on both sides
        "iou/liver": (1 / 2 + 1 / 2) / 2,
        "iou/tumour": 1 / 2,
        "absence/liver": math.nan,
        "absence/tumour": 1,
        "dice": 2 / 3,
        "iou": 1 / 2,
        "absence": 1,
        "precision/liver": 2 / 4,
        "precision/tumour": 1,
        "recall/liver": 1,
        "recall/tumour": 1 / 2,
        "dice_global": (4 / 6 + 2 / 3) / 2,
        "iou_global": (2 / 4 + 1 / 2) / 2,
        "accuracy": 6 / 8,
        "precision": (2 / 4 + 1) / 2,
        "recall": (1 + 1 / 2) / 2,
        "specificity": (4 / 6 + 1) / 2,
        "auroc": (1 + 3 / 4) / 2,  # of 4 background pixels one looks like foreground
    }
    assert scores == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_the_mean_recall_excludes_a_class_that_is_never_labelled() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1]]]), 3).movedim(-1, 1) * 9.0
    scores = scores_of(logits, torch.tensor([[[0, 1, 0]]], dtype=torch.uint8), THREE)
    assert scores["recall"].item() == 1
    assert scores["precision"].item() == 0.5


# independent references


def test_images_agree_with_sets_of_pixels_in_plain_python() -> None:
    logits, target = random_batch(6)
    dice, iou = [], []
    for logit, mask in zip(logits[:, 0].tolist(), target.tolist(), strict=True):
        pixels = [(y, x) for y, row in enumerate(mask) for x, v in enumerate(row) if v != 255]
        a = {(y, x) for y, x in pixels if 1 / (1 + math.exp(-logit[y][x])) >= 0.5}
        b = {(y, x) for y, x in pixels if mask[y][x] == 1}
        dice.append((2 * len(a & b) + 1e-7) / (len(a) + len(b) + 1e-7))
        iou.append((len(a & b) + 1e-7) / (len(a | b) + 1e-7))
    table = per_image_scores(logits, target)
    assert table["dice"].tolist() == pytest.approx(dice, rel=1e-6)
    assert table["iou"].tolist() == pytest.approx(iou, rel=1e-6)
    scores = scores_of(logits, target)
    assert scores["dice"].item() == pytest.approx(np.mean(dice), rel=1e-6)
    assert scores["iou"].item() == pytest.approx(np.mean(iou), rel=1e-6)


@pytest.mark.parametrize("names", [BINARY, THREE], ids=["binary", "three-classes"])
def test_pooled_scores_agree_with_sklearn(names: tuple[str, ...]) -> None:
    logits, target = random_batch(5, len(names))
    if len(names) == 2:
        predicted = (logits[:, 0].sigmoid() >= 0.5).long().numpy()
    else:
        predicted = logits.argmax(1).numpy()
    counted = target.numpy() != IGNORE_INDEX
    true, found = target.numpy()[counted], predicted[counted]
    foreground = list(range(1, len(names)))
    options = {"labels": foreground, "average": "macro"}
    confusion = sklearn_metrics.multilabel_confusion_matrix(true, found, labels=foreground)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(true, found),
        "precision": sklearn_metrics.precision_score(true, found, **options),
        "recall": sklearn_metrics.recall_score(true, found, **options),
        "dice_global": sklearn_metrics.f1_score(true, found, **options),
        "iou_global": sklearn_metrics.jaccard_score(true, found, **options),
        "specificity": np.mean(confusion[:, 0, 0] / confusion[:, 0].sum(1)),
        "auroc": sklearn_metrics.roc_auc_score(true > 0, foreground_logit(logits).numpy()[counted]),
    }
    scores = scores_of(logits, target, names)
    for name, value in expected.items():
        tolerance = 1e-4 if name == "auroc" else 1e-6  # it ranks by bins
        assert scores[name].item() == pytest.approx(value, abs=tolerance), name


def test_the_saved_8_bit_maps_give_the_same_scores_in_numpy() -> None:
    logits, target = random_batch(7)
    saved = np.minimum(255, np.floor(256 * logits[:, 0].sigmoid().numpy())).astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(foreground_probability(logits)).numpy(), saved)
    a, counted = saved >= 128, target.numpy() != IGNORE_INDEX
    b = target.numpy() == 1
    overlap = (a & b & counted).sum((1, 2))
    sizes = (a & counted).sum((1, 2)) + (b & counted).sum((1, 2))
    scores = scores_of(logits, target)
    dice = ((2 * overlap + 1e-7) / (sizes + 1e-7)).mean()
    iou = ((overlap + 1e-7) / (sizes - overlap + 1e-7)).mean()
    assert scores["dice"].item() == pytest.approx(dice, abs=1e-6)
    assert scores["iou"].item() == pytest.approx(iou, abs=1e-6)


# counts


def test_128_is_the_first_8_bit_value_of_a_predicted_pixel() -> None:
    below_half, above_half = np.nextafter(np.float32(0.5), np.float32([0, 1])).tolist()
    below_one = np.nextafter(np.float32(1), np.float32(0)).item()
    probability = torch.tensor(
        [0.0, 1e-30, below_half, 0.5, above_half, 127.5 / 256, 255 / 256, below_one, 1.0]
    )
    assert to_uint8(probability).tolist() == [0, 0, 127, 128, 128, 127, 255, 255, 255]
    many = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_uint8(many) >= 128, many >= 0.5)


def test_histogram_agrees_with_numpy() -> None:
    generator = torch.Generator().manual_seed(1)
    logit = torch.randn((3, 9, 7), generator=generator) * 5
    logit[0, 0, :6] = torch.tensor([0.0, -0.0, 1e5, 5000.0, -1e5, 1e-30])
    target = torch.randint(2, (3, 9, 7), generator=generator).to(torch.uint8)
    target[1, :4] = IGNORE_INDEX
    target[0, 0, :6] = 1
    histogram = pixel_histogram(logit, target)
    edges = bin_logits()
    assert (histogram.dtype, histogram.shape) == (torch.int64, (2, len(edges)))
    assert (edges.diff() > 0).all()
    for label in (0, 1):
        values = np.sort(logit.numpy()[target.numpy() == label])
        counted = histogram[label] > 0
        found = np.repeat(edges[counted].numpy(), histogram[label][counted].numpy())
        assert (found <= values + 1e-7).all()
        close = np.abs(values) < 4096
        assert (values - found <= (np.abs(values) + 1 / 16) / 2**12)[close].all()
        assert (np.abs(found[values > 4096]) > 4094).all()
    same = pixel_histogram(torch.tensor([[[0.0, -0.0, 5000.0, 1e5]]]), torch.ones(1, 1, 4))
    assert sorted(same[1][same[1] > 0].tolist()) == [2, 2]


def test_bins_do_not_change_the_target() -> None:
    target = torch.ones((1, 2, 2), dtype=torch.int32)
    pixel_histogram(torch.zeros(1, 2, 2), target)
    assert target.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        pytest.param(1.0, 0.0, id="usual"),
        pytest.param(30.0, 0.0, id="confident"),
        pytest.param(0.01, 0.0, id="timid"),
        pytest.param(0.3, -9.0, id="shifted"),
        pytest.param(0.1, 12.0, id="shifted-up"),
        pytest.param(0.01, -9.0, id="narrow"),
        pytest.param(0.004, 5.0, id="narrower"),
        pytest.param(1e-4, 0.0, id="nearly-constant"),
        pytest.param(100.0, -800.0, id="large"),
    ],
)
def test_pixels_keep_their_rank_at_any_scale_and_offset(scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand((1, 200, 200), generator=generator) < 0.15).to(torch.uint8)
    logit = (torch.randn(target.shape, generator=generator) + 1.2 * target) * scale + offset
    exact = sklearn_metrics.roc_auc_score(target.flatten(), logit.flatten())
    assert 0.78 < exact < 0.82
    histogram = pixel_histogram(logit, target)
    assert auroc(histogram).item() == pytest.approx(exact, abs=5e-4)
    group = rank_groups(histogram)
    assert group.max() < 1024
    assert auroc(merged_bins(histogram, group)).item() == pytest.approx(exact, abs=5e-4)


@pytest.mark.parametrize("names", [BINARY, THREE], ids=["binary", "three-classes"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_image_with_an_output_that_is_not_finite_leaves_no_score(
    value: float, names: tuple[str, ...]
) -> None:
    logits, target = random_batch(4, len(names))
    logits[1, 0, 3, 3] = value
    table = per_image_scores(logits, target, class_names=names)
    assert table["dice"].isnan().tolist() == [False, True, False, False]
    others = per_image_scores(logits[[0, 2, 3]], target[[0, 2, 3]], class_names=names)
    assert torch.equal(table["dice"][[0, 2, 3]], others["dice"])
    assert pixel_confusion(logits, target)[1].sum() == 0
    scores = scores_of(logits, target, names)
    assert all(score.isnan() for score in scores.values())
    metric = SegmentationScores(class_names=names)
    metric.update(logits, torch.full_like(target, IGNORE_INDEX))  # rows that pad a batch
    metric.update(logits[2:], target[2:])
    assert_same_bits(metric.compute(), scores_of(logits[2:], target[2:], names))


def test_a_class_that_is_never_predicted_lowers_every_score_of_several_classes() -> None:
    target = torch.tensor([[[0, 1, 1, 2]], [[0, 1, 0, 0]], [[0, 1, 0, 0]]], dtype=torch.uint8)
    without_tumour = torch.where(target == 2, 0, target).long()
    logits = torch.nn.functional.one_hot(without_tumour, 3).movedim(-1, 1) * 9.0
    scores = scores_of(logits, target, THREE)
    assert scores["dice/tumour"].item() == pytest.approx(0, abs=1e-6)
    assert scores["dice"].item() == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert scores["precision/tumour"].item() == 0
    assert scores["precision"].item() == 0.5
    assert scores["absence/tumour"].item() == 1
    nothing = scores_of(
        torch.tensor([9.0, 0, 0]).view(1, 3, 1, 1).expand(3, -1, 1, 4), target, THREE
    )
    assert nothing["dice"].item() == pytest.approx(0, abs=1e-6)


def test_a_lesion_free_image_counts_in_dice_and_not_in_dice_present() -> None:
    logits = logits_of([[0, 0, 0], [0, 0, 1], [1, 0, 0]])
    target = torch.tensor([[[0, 0, 0]], [[0, 0, 0]], [[1, 0, 0]]], dtype=torch.uint8)
    scores = {name: value.item() for name, value in scores_of(logits, target).items()}
    assert scores["dice"] == pytest.approx(2 / 3)
    assert scores["dice_present"] == 1
    assert scores["absence"] == 0.5


@pytest.mark.parametrize("num_classes", [3, 9])
def test_confusion_predicts_the_first_largest_logit(num_classes: int) -> None:
    logits, target = random_batch(4, num_classes)
    logits = logits.round()  # with ties
    confusion = pixel_confusion(logits, target)
    for image in range(4):
        counted = target[image] != IGNORE_INDEX
        expected = sklearn_metrics.confusion_matrix(
            target[image][counted],
            logits[image].numpy().argmax(0)[counted.numpy()],
            labels=range(num_classes),
        )
        np.testing.assert_array_equal(confusion[image].numpy(), expected)


def test_foreground_probability_of_three_classes_is_one_minus_background() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    expected = (math.e**2 + math.e**3) / (math.e + math.e**2 + math.e**3)
    assert foreground_probability(logits).item() == pytest.approx(expected, rel=1e-6)


# invariances


@pytest.mark.parametrize("names", [BINARY, THREE], ids=["binary", "three-classes"])
def test_order_and_batch_size_change_no_bit(names: tuple[str, ...]) -> None:
    logits, target = random_batch(23, len(names))
    whole = scores_of(logits, target, names)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    for batch_size in (1, 4, 23):
        assert_same_bits(scores_of(logits[order], target[order], names, batch_size), whole)


def test_merged_devices_change_no_bit() -> None:
    logits, target = random_batch(9)
    first, second = (SegmentationScores(class_names=BINARY) for _ in range(2))
    first.update(logits[:5], target[:5])
    second.update(logits[5:], target[5:])
    first.merge_state(second)
    assert_same_bits(first.compute(), scores_of(logits, target))


@pytest.mark.parametrize("names", [BINARY, THREE], ids=["binary", "three-classes"])
def test_rows_that_pad_a_batch_change_no_bit(names: tuple[str, ...]) -> None:
    logits, target = random_batch(5, len(names))
    padded_logits = torch.cat([logits, torch.full_like(logits[:3], 7.0)])
    padding = torch.full_like(target[:3], IGNORE_INDEX)
    padded_target = torch.cat([target, padding])
    assert_same_bits(
        scores_of(padded_logits, padded_target, names), scores_of(logits, target, names)
    )
    table = per_image_scores(padded_logits, padded_target, class_names=names)
    assert all(column[5:].isnan().all() for column in table.values())
    assert table["dice"][:5].isfinite().all()


@pytest.mark.parametrize("names", [BINARY, THREE], ids=["binary", "three-classes"])
def test_predictions_at_ignored_pixels_change_no_bit(names: tuple[str, ...]) -> None:
    logits, target = random_batch(5, len(names))
    ignored = (target == IGNORE_INDEX).unsqueeze(1)
    assert ignored.any()
    changed = torch.where(ignored, -logits * 3, logits)
    assert_same_bits(scores_of(changed, target, names), scores_of(logits, target, names))


def test_int64_targets_and_channels_last_logits_change_no_bit() -> None:
    logits, target = random_batch(4, 3)
    other = logits.contiguous(memory_format=torch.channels_last)
    assert_same_bits(scores_of(other, target.long(), THREE), scores_of(logits, target, THREE))


@pytest.mark.parametrize("names", [BINARY, THREE], ids=["binary", "three-classes"])
def test_bfloat16_logits_are_scored_as_the_same_numbers_in_float32(names: tuple[str, ...]) -> None:
    logits, target = random_batch(4, len(names))
    rounded = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scores_of(rounded, target, names)
    assert_same_bits(scores, scores_of(rounded.float(), target, names))
    assert all(value.dtype == torch.float32 for value in scores.values())


def test_every_bfloat16_value_is_scored_as_in_float32() -> None:
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    values = values[values.isfinite()].view(1, 1, 255, -1)
    assert ((values < 0) & (values.float().sigmoid() >= 0.5)).any()  # these round to p = 0.5
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, values[:, 0].shape, generator=generator).to(torch.uint8)
    target[0, ::7] = IGNORE_INDEX
    short, long = (SegmentationScores(class_names=BINARY) for _ in range(2))
    short.update(values, target)
    long.update(values.float(), target)
    assert torch.equal(short.histogram, long.histogram)
    assert short.histogram.sum() == (target < 2).sum() == short.confusion.sum()
    assert_same_bits(short.compute(), long.compute())


@pytest.mark.parametrize("names", [BINARY, THREE], ids=["binary", "three-classes"])
def test_the_mean_of_the_table_is_the_score(names: tuple[str, ...]) -> None:
    logits, target = random_batch(11, len(names))
    scores = scores_of(logits, target, names)
    table = per_image_scores(logits, target, class_names=names)
    of_images = ("dice", "dice_present", "iou", "absence")
    assert set(table) == {name for name in scores if name.split("/")[0] in of_images}
    for name, column in table.items():
        assert column.shape == (11,)
        mean = column.nanmean().item()
        assert mean == pytest.approx(scores[name].item(), abs=1e-6, nan_ok=True)


# degenerate inputs


def test_empty_masks_and_empty_predictions_score_one() -> None:
    logits = logits_of([[0, 0, 0, 0]] * 2)
    scores = scores_of(logits, torch.zeros(2, 1, 4, dtype=torch.uint8))
    for name in ("dice", "iou", "dice_global", "iou_global", "accuracy", "specificity"):
        assert scores[name].item() == 1, name
    for name in ("precision", "recall", "auroc"):
        assert scores[name].isnan(), name


def test_a_full_mask_predicted_full_scores_one() -> None:
    scores = scores_of(logits_of([[1, 1, 1]]), torch.ones(1, 1, 3, dtype=torch.uint8))
    for name in ("dice", "iou", "dice_global", "accuracy", "precision", "recall"):
        assert scores[name].item() == 1, name
    assert scores["specificity"].isnan()
    assert scores["auroc"].isnan()


def test_one_wrong_pixel_in_an_empty_mask_scores_zero() -> None:
    scores = scores_of(logits_of([[0, 0, 1]]), torch.zeros(1, 1, 3, dtype=torch.uint8))
    assert scores["dice"].item() == pytest.approx(0, abs=1e-6)
    assert scores["precision"].item() == 0


def test_an_epoch_of_padding_has_no_scores() -> None:
    target = torch.full((2, 1, 3), IGNORE_INDEX, dtype=torch.uint8)
    assert all(value.isnan() for value in scores_of(logits_of([[0, 1, 1]] * 2), target).values())


# state


def test_state_does_not_grow_with_the_data() -> None:
    metric = SegmentationScores(class_names=THREE)

    def size() -> dict[str, tuple[torch.Size, torch.dtype]]:
        states = {name: getattr(metric, name) for name in metric._defaults}
        return {name: (state.shape, state.dtype) for name, state in states.items()}

    before = size()
    for seed in range(5):
        metric.update(*random_batch(4, 3, seed))
    assert size() == before
    assert all(dtype == torch.int64 for _, dtype in before.values())
    assert metric.num_images.tolist()[:2] == [20, 20]


def test_reset_clears_the_state_and_clones_are_independent() -> None:
    metric = SegmentationScores(class_names=BINARY)
    metric.update(*random_batch(3))
    clone = metric.clone()
    metric.reset()
    assert metric.num_images[0].item() == 0
    assert clone.num_images[0].item() == 3
    metric.update(*random_batch(4, seed=1))
    assert_same_bits(metric.compute(), scores_of(*random_batch(4, seed=1)))


def test_states_reset_in_inference_mode_take_updates_outside_it() -> None:
    metric = SegmentationScores(class_names=BINARY)
    with torch.inference_mode():
        metric.reset()
        metric.update(*random_batch(2))
    metric.update(*random_batch(2))
    assert metric.num_images[0].item() == 4


def test_counts_stay_exact_beyond_float32() -> None:
    metric = SegmentationScores(class_names=BINARY)
    metric.confusion = torch.tensor([[2**40, 0], [0, 2**25]])
    metric.update(logits_of([[1]]), torch.ones(1, 1, 1, dtype=torch.uint8))
    assert metric.confusion.tolist() == [[2**40, 0], [0, 2**25 + 1]]


def test_roc_has_few_points_and_the_area_that_is_reported() -> None:
    metric = SegmentationScores(class_names=BINARY)
    metric.update(*random_batch(60))
    false_positive_rate, true_positive_rate, threshold = metric.roc()
    assert len(false_positive_rate) == len(true_positive_rate) == len(threshold) <= 257
    assert threshold[0] == torch.inf
    assert (threshold.diff() < 0).all()
    area = sklearn_metrics.auc(false_positive_rate, true_positive_rate)
    assert metric.compute()["auroc"].item() == pytest.approx(area, abs=1e-4)


# messages


def test_shape_mismatch_names_both_shapes() -> None:
    metric = SegmentationScores(class_names=BINARY)
    with pytest.raises(ValueError, match=r"expected target of shape \(2, 4, 4\), got \(2, 4, 5\)"):
        metric.update(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 5, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected target of shape \(2, 4, 4\), got \(1, 4, 4\)"):
        pixel_confusion(torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))


def test_a_wrong_number_of_classes_is_refused() -> None:
    target = torch.zeros(2, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"got \(2, 2, 4, 4\)"):
        foreground_probability(torch.zeros(2, 2, 4, 4))
    with pytest.raises(ValueError, match=r"logits of 2 classes, got shape \(2, 3, 4, 4\)"):
        SegmentationScores(class_names=BINARY).update(torch.zeros(2, 3, 4, 4), target)
    with pytest.raises(ValueError, match="expected 2 class names, got 3"):
        per_image_scores(torch.zeros(2, 1, 4, 4), target, class_names=THREE)


@pytest.mark.parametrize("names", [["background"], ["background", "a", "a"]])
def test_class_names_must_be_two_or_more_and_distinct(names: list[str]) -> None:
    with pytest.raises(ValueError, match="distinct class names"):
        SegmentationScores(class_names=names)


# devices


XLA_PROGRAM = """
import torch, torch_xla
from torch_xla.debug import metrics as xla_metrics
from medvision.metrics import SegmentationScores

for names, channels in ((("background", "a"), 1), (("background", "a", "b"), 3)):
    here = SegmentationScores(class_names=names)
    there = SegmentationScores(class_names=names).to(torch_xla.device())
    compilations = []
    for step in range(4):
        logits = torch.randn(2, channels, 16, 16)
        target = torch.randint(len(names), (2, 16, 16)).to(torch.uint8)
        target[0, step] = 255
        here.update(logits, target)
        there.update(logits.to(torch_xla.device()), target.to(torch_xla.device()))
        torch_xla.sync()
        compilations.append(xla_metrics.metric_data("CompileTime")[0])
    assert compilations[1] == compilations[3], compilations
    for name, value in there.compute().items():
        torch.testing.assert_close(
            value.cpu(), here.compute()[name], rtol=0, atol=2e-6, equal_nan=True
        )
fallbacks = [name for name in xla_metrics.counter_names() if name.startswith("aten::")]
assert fallbacks == [], fallbacks
print("same on XLA")
"""


@pytest.mark.slow  # a process of its own that imports torch-xla
@pytest.mark.skipif(importlib.util.find_spec("torch_xla") is None, reason="needs the extra `tpu`")
def test_update_runs_on_xla_without_recompiling_or_falling_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(XLA_PROGRAM)],
        env={**os.environ, "PJRT_DEVICE": "CPU", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith("same on XLA"), done.stderr
