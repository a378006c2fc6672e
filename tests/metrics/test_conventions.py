import itertools
import pickle

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torchmetrics.functional as torchmetrics_functional
from monai.losses.dice import DiceLoss
from monai.metrics.meandice import DiceMetric
from monai.metrics.meaniou import MeanIoU
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.segmentation import DiceScore
from torchmetrics.segmentation import MeanIoU as TorchmetricsMeanIoU

from convention_tables import conventions_of_maps, dice_by_convention
from medvision.metrics import SegmentationScores, pixel_confusion
from medvision.metrics.conventions import SegmentationConventions

torch.set_num_threads(1)

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]
Pairs = tuple[Maps, Masks]
Scores = tuple[float, float]
Table = dict[str, tuple[float | None, float | None]]

SIZE = 24


def blobs(num_images: int = 20) -> Pairs:
    """Discs of random size, predicted with blurred, shifted and underconfident maps."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    probabilities, masks = [], []
    for _ in range(num_images):
        radius, centre = rng.uniform(2, 7), rng.uniform(8, 16, 2)
        distance = np.hypot(y - centre[0], x - centre[1])
        masks.append(distance < radius)
        found = np.hypot(y - centre[0] - rng.normal(0, 1), x - centre[1] - rng.normal(0, 1))
        logit = (radius * 0.9 - found) * 1.2 + rng.normal(0, 0.3, distance.shape)
        probabilities.append((0.02 + 0.98 / (1 + np.exp(-logit))).astype(np.float32))
    return np.stack(probabilities), np.stack(masks)


def with_empty_masks() -> Pairs:
    """Masks of which the first three are empty: predicted empty, full and partly."""
    probabilities, masks = blobs(12)
    masks[:3] = False
    probabilities[0], probabilities[1] = 0.25, 0.75
    return probabilities, masks


def with_full_masks() -> Pairs:
    """Full masks: predicted full, empty and partly."""
    probabilities, masks = blobs(8)
    masks[:3] = True
    probabilities[0], probabilities[1] = 1.0, 0.0
    return probabilities, masks


def with_ties() -> Pairs:
    """Probabilities of few values, most of them 0.5."""
    rng = np.random.default_rng(3)
    values = np.array([0.0, 0.25, 0.5, 0.5, 0.5, 1.0], np.float32)
    return rng.choice(values, (6, SIZE, SIZE)), rng.random((6, SIZE, SIZE)) < 0.4


def all_empty() -> Pairs:
    """Empty masks, predicted empty."""
    return np.full((3, SIZE, SIZE), 0.125, np.float32), np.zeros((3, SIZE, SIZE), bool)


SETS = [blobs, with_empty_masks, with_full_masks, with_ties, all_empty]


@pytest.fixture(scope="module", params=SETS, ids=lambda make: make.__name__)
def pairs(request: pytest.FixtureRequest) -> Pairs:
    return request.param()


@pytest.fixture(scope="module")
def table(pairs: Pairs) -> Table:
    return table_of(*pairs)


@pytest.fixture(scope="module")
def tensors(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Probabilities and masks as (N, 1, H, W)."""
    probabilities, masks = (torch.tensor(side).unsqueeze(1) for side in pairs)
    return probabilities, masks


def table_of(probabilities: Maps, masks: Masks) -> Table:
    rows = conventions_of_maps(list(probabilities), list(masks))
    return {row["key"]: (row["dice"], row["iou"]) for row in rows}


def both_classes(foreground: Tensor) -> Tensor:
    """One-hot (N, 2, H, W) of a bool foreground (N, 1, H, W)."""
    return torch.cat([~foreground, foreground], dim=1).long()


def nanmean(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")


def classes_by_nnunet(predicted: NDArray[np.int64], labelled: NDArray[np.int64], k: int) -> Scores:
    """Return foreground_mean of nnU-Net 2 for class maps (N, H, W)."""
    means = []
    for number in range(1, k):
        dice, iou = [], []
        for a, b in zip(predicted == number, labelled == number, strict=True):
            tp, fp, fn = (a & b).sum(), (a & ~b).sum(), (~a & b).sum()
            if tp + fp + fn == 0:
                dice.append(float("nan"))
                iou.append(float("nan"))
            else:
                dice.append(2 * tp / (2 * tp + fp + fn))
                iou.append(tp / (tp + fp + fn))
        means.append((nanmean(dice), nanmean(iou)))
    return float(np.mean([m[0] for m in means])), float(np.mean([m[1] for m in means]))


def classes_by_mmseg(predicted: NDArray[np.int64], labelled: NDArray[np.int64], k: int) -> Scores:
    """Return mDice and mIoU of mmsegmentation 1 for class maps (N, H, W)."""
    areas = np.zeros((3, k))
    for a, b in zip(predicted, labelled, strict=True):
        for row, values in enumerate((a[a == b], a, b)):
            areas[row] += np.histogram(values, bins=k, range=(0, k - 1))[0]
    both, found, true = areas
    dice = [2 * i / (p + t) if p + t else float("nan") for i, p, t in zip(*areas, strict=True)]
    iou = [i / u if u else float("nan") for i, u in zip(both, found + true - both, strict=True)]
    return nanmean(dice), nanmean(iou)


def over_pranets_thresholds(probabilities: Maps, masks: Masks) -> NDArray[np.float64]:
    """Dice and IoU of the published MATLAB loop, (N, 256, 2)."""
    table = np.zeros((len(masks), 256, 2))
    for number, (probability, mask) in enumerate(zip(probabilities, masks, strict=True)):
        stretched = probability.astype(np.float64)
        if stretched.max() > stretched.min():  # mapminmax leaves a constant row as it is
            stretched = (stretched - stretched.min()) / (stretched.max() - stretched.min())
        for step in range(256):
            label = stretched >= step / 255
            both, found, true = np.sum(label & mask), np.sum(label), np.sum(mask)
            if both > 0:
                table[number, step] = 2 * both / (true + found), both / (true - both + found)
    return table


def found(value: Scores, *, places: float = 1e-6) -> object:
    """Expected pair of scores; None if undefined."""
    return tuple(None if np.isnan(v) else pytest.approx(v, abs=places) for v in value)


def test_per_image_is_smp_imagewise_and_our_own_score(
    table: Table, tensors: tuple[Tensor, Tensor]
) -> None:
    probabilities, masks = tensors
    stats = smp.metrics.get_stats(probabilities, masks.long(), mode="binary", threshold=0.5)
    for reduction in ("micro-imagewise", "macro-imagewise"):
        dice = smp.metrics.f1_score(*stats, reduction=reduction).item()
        iou = smp.metrics.iou_score(*stats, reduction=reduction).item()
        assert table["per_image"] == found((dice, iou))
    ours = SegmentationScores(class_names=("background", "disc"))
    ours.update(probabilities.logit(1e-6), masks[:, 0].to(torch.uint8))
    scores = {name: value.item() for name, value in ours.compute().items()}
    assert table["per_image"] == found((scores["dice"], scores["iou"]))
    assert table["pooled"] == found((scores["dice_global"], scores["iou_global"]))


def test_pooled_is_smp_micro(table: Table, tensors: tuple[Tensor, Tensor]) -> None:
    stats = smp.metrics.get_stats(tensors[0], tensors[1].long(), mode="binary", threshold=0.5)
    counts = [count.sum().item() for count in stats[:3]]
    if sum(counts) == 0:  # 0/0 in smp's micro; medvision says 1
        assert table["pooled"] == (1.0, 1.0)
        return
    dice = smp.metrics.f1_score(*stats, reduction="micro").item()
    assert table["pooled"] == found((dice, smp.metrics.iou_score(*stats, reduction="micro").item()))


def test_per_image_defined_is_nnunet(table: Table, pairs: Pairs) -> None:
    probabilities, masks = pairs
    predicted = (probabilities >= 0.5).astype(np.int64)
    expected = classes_by_nnunet(predicted, masks.astype(np.int64), 2)
    assert table["per_image_defined"] == found(expected, places=1e-12)


@pytest.mark.parametrize(
    ("key", "channels"),
    [
        ("per_image_labelled", "foreground only"),
        ("per_image_labelled", "include_background=False"),
        ("per_image_labelled_with_background", "include_background=True"),
    ],
)
def test_labelled_is_monai(
    table: Table, tensors: tuple[Tensor, Tensor], key: str, channels: str
) -> None:
    predicted, masks = tensors[0] >= 0.5, tensors[1]
    sides = predicted.long(), masks.long()
    if channels != "foreground only":
        sides = both_classes(predicted), both_classes(masks)
    background = channels != "include_background=False"
    scores = []
    for metric in (
        DiceMetric(include_background=background),
        MeanIoU(include_background=background),
    ):
        metric(*sides)
        scores.append(float(metric.aggregate()))  # type: ignore[arg-type]
    assert table[key] == found((scores[0], scores[1]))


def test_with_background_is_torchmetrics(table: Table, tensors: tuple[Tensor, Tensor]) -> None:
    sides = both_classes(tensors[0] >= 0.5), both_classes(tensors[1])
    dice, iou = DiceScore(num_classes=2), TorchmetricsMeanIoU(num_classes=2)
    for side in zip(*(s.split(4) for s in sides), strict=True):
        dice.update(*side)
        iou.update(*side)
    expected = dice.compute().item(), iou.compute().item()
    assert table["per_image_with_background"] == found(expected)


def test_micro_is_torchmetrics_before_1_9_and_pixel_accuracy(
    table: Table, tensors: tuple[Tensor, Tensor]
) -> None:
    predicted, masks = tensors[0] >= 0.5, tensors[1]
    flat = (predicted.flatten().long(), masks.flatten().long(), "multiclass")
    dice = torchmetrics_functional.f1_score(*flat, average="micro", num_classes=2).item()
    iou = torchmetrics_functional.jaccard_index(*flat, average="micro", num_classes=2).item()
    assert table["micro_with_background"] == found((dice, iou))
    accuracy = (predicted == masks).float().mean().item()
    assert table["micro_with_background"][0] == pytest.approx(accuracy, abs=1e-6)
    with pytest.warns(UserWarning, match="defaults to `average=micro`"):
        old = torchmetrics_functional.segmentation.dice_score(
            both_classes(predicted), both_classes(masks), num_classes=2, average="micro"
        )
    assert table["micro_with_background"][0] == pytest.approx(old.mean().item(), abs=1e-6)


def test_pooled_with_background_is_mmsegmentation(table: Table, pairs: Pairs) -> None:
    predicted = (pairs[0] >= 0.5).astype(np.int64)
    expected = classes_by_mmseg(predicted, pairs[1].astype(np.int64), 2)
    assert table["pooled_with_background"] == found(expected, places=1e-12)


def test_soft_is_the_dice_loss_of_monai(table: Table, tensors: tuple[Tensor, Tensor]) -> None:
    loss = DiceLoss(smooth_nr=1.0, smooth_dr=1.0)(tensors[0], tensors[1].float())
    assert table["soft_smooth_1"] == (pytest.approx(1 - loss.item(), abs=1e-6), None)


def test_over_thresholds_is_pranets_loop(table: Table, pairs: Pairs) -> None:
    scores = over_pranets_thresholds(*pairs)
    mean, best = scores.mean((0, 1)), scores.mean(0).max(0)
    assert table["mean_over_thresholds"] == found((mean[0], mean[1]), places=1e-12)
    assert table["max_over_thresholds"] == found((best[0], best[1]), places=1e-12)


def test_best_threshold_is_the_best_of_256(table: Table, tensors: tuple[Tensor, Tensor]) -> None:
    probabilities, masks = tensors
    scores = []
    for step in range(256):
        predicted = (probabilities >= step / 256).long()
        stats = smp.metrics.get_stats(predicted, masks.long(), mode="binary")
        scores.append(
            [
                score(*stats, reduction="micro-imagewise").item()
                for score in (smp.metrics.f1_score, smp.metrics.iou_score)
            ]
        )
    best = np.max(scores, axis=0)
    assert table["best_threshold_on_this_set"] == found((best[0], best[1]))


def test_values_by_hand() -> None:
    probabilities = [np.array([[0.75, 0.25], [0.25, 0.25]]), np.array([[0.5, 0.5, 0.0, 0.0]])]
    masks = [np.array([[True, True], [False, False]]), np.array([[True, False, False, False]])]
    # image 1 stretched: 1 0 0 0; image 2 stretched: 1 1 0 0; at threshold 0 all is predicted
    over_thresholds = [(2 * 2 / 6 + 255 * 2 / 3) / 256, (2 / 5 + 255 * 2 / 3) / 256]
    per_image, background = 2 / 3, 4 / 5
    assert dice_by_convention(probabilities, masks) == pytest.approx(
        {
            "per_image": per_image,
            "per_image_defined": per_image,
            "per_image_labelled": per_image,
            "pooled": 4 / 6,
            "per_image_with_background": (per_image + background) / 2,
            "per_image_labelled_with_background": (per_image + background) / 2,
            "pooled_with_background": (4 / 6 + 8 / 10) / 2,
            "micro_with_background": 6 / 8,
            "soft_smooth_1": ((2 * 1 + 1) / (1.5 + 2 + 1) + (2 * 0.5 + 1) / (1 + 1 + 1)) / 2,
            "mean_over_thresholds": sum(over_thresholds) / 2,
            "max_over_thresholds": 2 / 3,
            # cut at or below 0.25 all of image 1 is predicted: 4/6 again
            "best_threshold_on_this_set": 2 / 3,
        },
        abs=1e-6,
    )


def test_empty_masks_by_hand() -> None:
    """Four pixels each: empty predicted empty, empty with a false positive, half correct."""
    probabilities = np.array([[0.1, 0.1, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]])
    masks = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    table = table_of(probabilities[:, None].astype(np.float32), masks[:, None])
    assert table["per_image"] == found(((1 + 0 + 1) / 3, (1 + 0 + 1) / 3))
    assert table["per_image_defined"] == found(((0 + 1) / 2, (0 + 1) / 2))
    assert table["per_image_labelled"] == found((1, 1))
    assert table["pooled"] == found((2 * 2 / (3 + 2), 2 / 3))
    # background of the three images: Dice 1, 6/7, 1 and IoU 1, 3/4, 1
    assert table["per_image_labelled_with_background"] == found(
        ((1 + 6 / 7 + 1) / 3, (1 + 3 / 4 + 1) / 3)
    )
    assert table["per_image_with_background"] == found(
        ((1 + (6 / 7 + 0) / 2 + 1) / 3, (1 + 3 / 4 + 0 + 1 + 1) / 5)
    )
    assert table["pooled_with_background"] == found(((18 / 19 + 4 / 5) / 2, (9 / 10 + 2 / 3) / 2))
    assert table["micro_with_background"] == found((11 / 12, 11 / 13))
    assert table["mean_over_thresholds"][0] == pytest.approx((1 * 255 + 2 / 3) / 256 / 3)


def test_scores_of_a_set_without_foreground() -> None:
    table = table_of(*all_empty())
    assert table["per_image"] == table["pooled"] == (1.0, 1.0)
    assert table["per_image_defined"] == (None, None)
    assert table["per_image_labelled"] == (0.0, 0.0)
    assert table["mean_over_thresholds"] == (0.0, 0.0)


def test_full_masks_predicted_full_score_one() -> None:
    scores = dice_by_convention([np.ones((4, 4))], [np.ones((4, 4), dtype=bool)])
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_conventions_differ_by_more_than_published_gains() -> None:
    scores = dice_by_convention(*(list(side) for side in blobs()))
    for name in ("per_image_defined", "per_image_labelled"):  # there are no empty masks here
        assert scores.pop(name) == pytest.approx(scores["per_image"], abs=1e-6)
    alike = scores.pop("per_image_labelled_with_background")
    assert alike == pytest.approx(scores["per_image_with_background"])
    for first, second in itertools.combinations(scores.values(), 2):
        assert abs(first - second) > 1e-3
    assert scores["micro_with_background"] - scores["soft_smooth_1"] > 0.1


def test_rows_contain_the_information_for_readers() -> None:
    rows = conventions_of_maps(*(list(side) for side in with_empty_masks()))
    assert [row["key"] for row in rows if row["own"]] == ["per_image"]
    assert {row["key"] for row in rows if row["optimistic"]} == {
        "max_over_thresholds",
        "best_threshold_on_this_set",
    }
    for row in rows:
        assert row["tools"]
        assert row["definition"].endswith(".")
        assert row["dice_difference"] == pytest.approx(row["dice"] - rows[0]["dice"], abs=1e-12)
    assert len({row["name"] for row in rows}) == len(rows) == 12


def test_the_best_threshold_is_never_worse_than_a_half() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        probabilities, masks = rng.random((3, 6, 6)), rng.random((3, 6, 6)) < 0.4
        scores = dice_by_convention(list(probabilities), list(masks))
        assert scores["best_threshold_on_this_set"] >= scores["per_image"] - 1e-7


def test_order_and_stored_8_bit_maps_do_not_change_scores_at_one_half() -> None:
    probabilities, masks = blobs()
    table = table_of(probabilities, masks)
    for key, values in table_of(probabilities[::-1], masks[::-1]).items():
        assert values[0] == pytest.approx(table[key][0], abs=1e-12), key
    saved = (np.minimum(255, np.floor(256 * probabilities)) / 256).astype(np.float32)
    read_back = table_of(saved, masks)
    for key in table.keys() - {"soft_smooth_1", "mean_over_thresholds", "max_over_thresholds"}:
        assert read_back[key] == table[key], key


def batches(conventions: SegmentationConventions, pairs: Pairs, size: int) -> None:
    logits = torch.tensor(pairs[0]).logit().unsqueeze(1)
    target = torch.tensor(pairs[1]).to(torch.uint8)
    for rows in torch.arange(len(target)).split(size):
        confusion = pixel_confusion(logits[rows], target[rows]).numpy()
        conventions.update(confusion, pairs[0][rows.numpy()], target[rows].numpy())


def test_batches_of_any_size_give_the_same_with_a_fixed_state_size() -> None:
    one, many = SegmentationConventions(), SegmentationConventions()
    batches(one, with_empty_masks(), 1)
    size = len(pickle.dumps(one))
    batches(many, with_empty_masks(), 5)
    assert one.compute() == many.compute()
    for _ in range(3):
        batches(one, blobs(), 7)
    assert len(pickle.dumps(one)) == size
    assert one.num_images == 12 + 3 * 20


def test_ignored_pixels_and_ignored_images_are_not_counted() -> None:
    probabilities, masks = blobs(4)
    plain = SegmentationConventions()
    batches(plain, (probabilities[:3], masks[:3]), 3)
    wider = np.concatenate([probabilities, np.ones((4, SIZE, 5), np.float32)], axis=2)
    target = np.full(wider.shape, 255, np.uint8)
    target[:3, :, :SIZE] = masks[:3]
    confusion = pixel_confusion(torch.tensor(wider).logit(1e-6).unsqueeze(1), torch.tensor(target))
    ignoring = SegmentationConventions()
    ignoring.update(confusion.numpy(), wider, target)
    assert ignoring.num_images == 3
    for a, b in zip(ignoring.compute(), plain.compute(), strict=True):
        assert (a["dice"], a["iou"]) == found((b["dice"], b["iou"] or np.nan), places=1e-12)


def test_a_nan_probability_is_background() -> None:
    probabilities, masks = blobs(2)
    zero = np.where(masks, 0, probabilities).astype(np.float32)
    broken = np.where(masks, np.nan, probabilities).astype(np.float32)
    assert table_of(broken, masks) == table_of(zero, masks)


def test_thresholds_are_met_exactly() -> None:
    steps = np.arange(256) / 255
    edges = np.concatenate([steps, np.nextafter(steps, 0), np.nextafter(steps, 1)]).clip(0, 1)
    table = table_of(edges.reshape(1, 1, -1), np.ones((1, 1, len(edges)), bool))
    passed = [(edges >= step).mean() for step in steps]
    expected = np.mean([2 * share / (1 + share) for share in passed])
    assert table["mean_over_thresholds"][0] == pytest.approx(expected, abs=1e-12)


def three_classes() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class maps (6, 12, 12): image 0 is background only, image 1 lacks class 2 on both sides."""
    rng = np.random.default_rng(5)
    labelled = rng.integers(0, 3, (6, 12, 12))
    predicted = np.where(
        rng.random(labelled.shape) < 0.7, labelled, rng.integers(0, 3, (6, 12, 12))
    )
    labelled[0] = predicted[0] = 0
    for side in (labelled, predicted):
        side[1][side[1] == 2] = 1
    labelled[2][labelled[2] == 1] = 0  # predicted there, never labelled
    return predicted, labelled


def table_of_classes(predicted: NDArray[np.int64], labelled: NDArray[np.int64], k: int) -> Table:
    conventions = SegmentationConventions(k)
    for a, b in zip(predicted, labelled, strict=True):
        confusion = np.bincount((k * b + a).ravel(), minlength=k * k).reshape(1, k, k)
        conventions.update(confusion, np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
    return {row["key"]: (row["dice"], row["iou"]) for row in conventions.compute()}


@pytest.mark.parametrize("k", [3, 4], ids=["three", "one-absent-everywhere"])
def test_several_classes_agree_with_every_library(k: int) -> None:
    predicted, labelled = three_classes()
    table = table_of_classes(predicted, labelled, k)
    sides = [torch.tensor(side) for side in (predicted, labelled)]
    stats = smp.metrics.get_stats(*sides, mode="multiclass", num_classes=k)
    for key, reduction in {
        "micro_with_background": "micro",
        "pooled_with_background_absent_1": "macro",
        "micro_per_image_with_background": "micro-imagewise",
        "per_image_with_background_empty_1": "macro-imagewise",
    }.items():
        dice = smp.metrics.f1_score(*stats, reduction=reduction).item()
        iou = smp.metrics.iou_score(*stats, reduction=reduction).item()
        assert table[key] == found((dice, iou)), key
    hot = [one_hot(side, k).movedim(-1, 1) for side in sides]
    for key, background in {
        "per_image_labelled": False,
        "per_image_labelled_with_background": True,
    }.items():
        dices, ious = DiceMetric(include_background=background), MeanIoU(background)
        dices(*hot)
        ious(*hot)
        expected = float(dices.aggregate()), float(ious.aggregate())  # type: ignore[arg-type]
        assert table[key] == found(expected), key
    dice_score, mean_iou = DiceScore(num_classes=k), TorchmetricsMeanIoU(num_classes=k)
    dice_score.update(*hot)
    mean_iou.update(*hot)
    expected = dice_score.compute().item(), mean_iou.compute().item()
    assert table["per_image_with_background"] == found(expected)
    assert table["per_image_defined"] == found(classes_by_nnunet(predicted, labelled, k))
    assert table["pooled_with_background"] == found(classes_by_mmseg(predicted, labelled, k))
    logits = torch.tensor(np.eye(k)[predicted]).movedim(-1, 1).float()
    ours = SegmentationScores(class_names=[str(number) for number in range(k)])
    ours.update(logits, sides[1])
    scores = {name: value.item() for name, value in ours.compute().items()}
    assert table["per_image_present"] == found((scores["dice"], scores["iou"]))
    assert table["pooled"] == found((scores["dice_global"], scores["iou_global"]))


def test_scores_of_one_foreground_are_binary_only_for_several_classes() -> None:
    conventions = SegmentationConventions(3)
    conventions.update(np.ones((1, 3, 3), int), np.zeros((1, 3, 3)), np.zeros((1, 3, 3)))
    rows = {row["key"]: row for row in conventions.compute()}
    undefined = {key for key, row in rows.items() if row["dice"] is None}
    assert undefined == {key for key, row in rows.items() if row["binary_only"]}
    assert len(undefined) == 4
    assert "smp" not in rows["per_image_present"]["tools"]


def test_without_images_everything_is_undefined() -> None:
    assert {row["dice"] for row in SegmentationConventions().compute()} == {None}


def test_mismatched_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="two classes or more, got 1"):
        SegmentationConventions(1)
    maps = np.zeros((1, 2, 2))
    with pytest.raises(ValueError, match=r"expected confusion \(N, 2, 2\)"):
        SegmentationConventions().update(np.zeros((1, 3, 3), int), maps, maps)
    with pytest.raises(ValueError, match=r"expected target \(1, 2, 2\), got \(1, 2, 3\)"):
        SegmentationConventions().update(np.ones((1, 2, 2), int), maps, np.zeros((1, 2, 3)))
