"""Findings are reported with their numbers exactly when they apply."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from medvision.reports.findings import findings

Row = dict[str, Any]


def curve(name: str, train: list[float | None], val: list[float | None], **more: Any) -> list[Row]:
    """A history of one score, with a loss that falls."""
    rows = []
    for epoch, (seen, unseen) in enumerate(zip(train, val, strict=True)):
        rows.append({"epoch": epoch, f"train/{name}": seen, f"val/{name}": unseen})
        rows[-1]["val/loss"] = 1 / (2 + epoch)
    for column, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[column.replace("_", "/", 1)] = value
    return rows


def segmentation(*, best: int | None = 2, test: int = 200, **metrics: Any) -> dict[str, Any]:
    """Summary of a run without findings, except for the given metrics."""
    scores = {
        "val/dice": 0.85,
        "val/dice_ci95": [0.82, 0.88],
        "test/dice": 0.84,
        "test/dice_ci95": [0.81, 0.87],
        "test/recall": 0.9,
        "test/specificity": 0.98,
        "test/precision": 0.9,
    }
    scores |= {name.replace("_", "/", 1): value for name, value in metrics.items()}
    return {
        "task": "segmentation",
        "dataset": {"num_images": {"train": 800, "val": 100, "test": test}},
        "metrics": scores,
        "best_epoch": best,
        "warnings": [],
    }


def classification(
    *, counts: dict[str, dict[str, int]] | None = None, **metrics: Any
) -> dict[str, Any]:
    """The same of a classifier of two classes."""
    chosen = {stage: {"normal": 80, "ill": 70} for stage in ("train", "val", "test")}
    chosen |= counts or {}
    scores = {
        "val/balanced_accuracy": 0.9,
        "val/balanced_accuracy_ci95": [0.87, 0.93],
        "test/balanced_accuracy": 0.89,
        "test/balanced_accuracy_ci95": [0.86, 0.92],
        "val/auroc": 0.95,
        "val/auroc_ci95": [0.93, 0.97],
        "test/auroc": 0.94,
        "test/auroc_ci95": [0.92, 0.96],
        "test/recall": 0.9,
        "test/precision": 0.9,
        **{f"test/recall/{name}": 0.9 for name in ("normal", "ill")},
        **{f"test/specificity/{name}": 0.9 for name in ("normal", "ill")},
    }
    scores |= {name.replace("_", "/", 1): value for name, value in metrics.items()}
    return {
        "task": "classification",
        "dataset": {
            "num_images": {stage: sum(held.values()) for stage, held in chosen.items()},
            "class_counts": chosen,
        },
        "metrics": scores,
        "best_epoch": 2,
        "warnings": [],
    }


HEALTHY = curve("dice", [0.6, 0.8, 0.86, 0.86], [0.6, 0.8, 0.85, 0.84])


def test_a_healthy_run_has_no_findings() -> None:
    assert findings(segmentation(), HEALTHY) == []
    history = curve("balanced_accuracy", [0.6, 0.8, 0.91, 0.91], [0.6, 0.8, 0.9, 0.89])
    assert findings(classification(), history) == []


def test_an_empty_summary_has_no_findings() -> None:
    assert findings({}, []) == []
    assert findings({"task": "detection", "metrics": None, "best_epoch": None}, []) == []


def test_an_evaluation_without_history_has_no_findings_about_the_fit() -> None:
    assert findings(segmentation(), []) == []


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("train", "train has no ill: a class cannot be learned without training images"),
        ("val", "val has no ill: the choice of the best epoch ignores this class"),
        ("test", "test has no ill: the scores of this class are undefined"),
    ],
)
def test_a_class_is_missing(stage: str, expected: str) -> None:
    summary = classification(counts={stage: {"normal": 150, "ill": 0}})
    assert findings(summary, []) == [expected]
    summary["warnings"] = [f"{stage} (150 images) contains no other, no ill"]
    assert findings(summary, []) == []
    summary["warnings"] = [f"{stage} contains no ill: AUROC and recall of a class are undefined"]
    assert findings(summary, []) == []
    summary["warnings"] = [f"{stage} contains no ill-defined"]
    assert findings(summary, []) == [expected]


def test_a_missing_class_explains_undefined_scores() -> None:
    counts = {"test": {"normal": 150, "ill": 0}}
    summary = classification(counts=counts, test_auroc=None, test_auroc_ci95=None, test_recall=None)
    assert len(findings(summary, [])) == 1


def test_few_test_images_are_reported() -> None:
    assert findings(segmentation(test=99, test_dice_ci95=[0.6, 0.95]), []) == [
        "only 99 test images: the 95 % interval of Dice is 0.600 to 0.950"
    ]
    assert findings(segmentation(test=1, test_dice_ci95=[0.84, 0.84]), []) == ["only 1 test image"]
    assert findings(segmentation(test=100), []) == []
    assert findings(segmentation(test=0), []) == []


def test_few_images_of_a_class() -> None:
    found = findings(classification(counts={"test": {"normal": 145, "ill": 5}}), [])
    assert found == [
        "few test images of a class (5 of ill): a single image changes its recall by 0.20"
    ]
    found = findings(classification(counts={"test": {"normal": 8, "ill": 5, "other": 200}}), [])
    assert found == [
        "few test images of a class (8 of normal, 5 of ill): a single image changes its recall by"
        " 0.12 or more"
    ]
    assert findings(classification(counts={"test": {"normal": 140, "ill": 10}}), []) == []


def test_a_gap_between_train_and_val() -> None:
    history = curve("dice", [0.6, 0.8, 0.96, 0.97], [0.6, 0.8, 0.85, 0.84])
    expected = (
        "Dice is 0.960 on train and 0.850 on val in the best epoch:"
        " the gap of 0.110 indicates overfitting"
    )
    assert findings(segmentation(), history) == [expected]
    as_text = [{name: str(value) for name, value in row.items()} for row in history]
    assert findings(segmentation(), as_text) == [expected]
    # too few validation images for an interval
    assert findings(segmentation(val_dice_ci95=None), history) == []
    # a gap within the interval is chance; only that of the best epoch counts; mixing has none
    assert findings(segmentation(val_dice_ci95=[0.7, 0.97]), history) == []
    assert findings(segmentation(best=1), history) == []
    for blank in (None, "", float("nan")):
        mixed = [{**row, "train/dice": blank} for row in history]
        assert findings(segmentation(), mixed) == []


@pytest.mark.parametrize(
    ("refit", "is_overfitting"),
    [(0.95, False), (0.91, False), (0.90, True), (0.85, True), (0.2, True), (None, True)],
)
def test_a_gap_that_batch_norm_explains_is_no_overfitting(
    refit: float | None, is_overfitting: bool
) -> None:
    """More than half of the gap from 0.85 to 0.96 has to be explained, and more than chance."""
    history = curve("dice", [0.6, 0.8, 0.96, 0.97], [0.6, 0.8, 0.85, 0.84])
    summary = {**segmentation(), "refit_batch_norm": {"val/dice": refit}}
    (found,) = findings(summary, history)
    assert found.startswith("Dice is 0.960 on train and 0.850 on val in the best epoch")
    assert ("indicates overfitting" in found) is is_overfitting
    assert ("which is not overfitting" in found) is not is_overfitting
    wide = {**summary, "metrics": {**summary["metrics"], "val/dice_ci95": [0.7, 0.955]}}
    (found,) = findings(wide, history)  # 0.95 is within the interval
    assert "indicates overfitting" in found


def test_validation_loss_that_rises_for_long() -> None:
    flat: list[float | None] = [0.85] * 12
    falling_then_rising = [0.6, 0.4, 0.3, 0.32, 0.35, 0.4, 0.42, 0.45, 0.5, 0.55, 0.6, 0.58]
    history = curve("dice", flat, flat, val_loss=falling_then_rising)
    start = "validation loss was lowest in epoch 3 of 12 (0.300) and rose to 0.580 by the end: "
    assert findings(segmentation(best=3), history) == [
        f"{start}the network overfits from then on; the best epoch, 4, was kept"
    ]
    assert findings(segmentation(best=9), history) == [
        f"{start}the best epoch, 10, already has 0.550, so its probabilities are likely"
        " overconfident"
    ]


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([0.9, 0.6, 0.4, 0.3, 0.3, 0.31, 0.3, 0.32, 0.31, 0.33], id="level"),
        pytest.param([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.5, 0.5, 0.5], id="not-for-long"),
        pytest.param([0.9, 0.3, 0.31, 0.3, 0.9, 0.3, 0.31, 0.32, 0.31, 0.9], id="single-epochs"),
        pytest.param([None] * 10, id="undefined"),
    ],
)
def test_a_fluctuating_validation_loss_is_not_reported(losses: list[float | None]) -> None:
    flat: list[float | None] = [0.85] * 10
    assert findings(segmentation(best=3), curve("dice", flat, flat, val_loss=losses)) == []


def test_the_best_epoch_is_the_last() -> None:
    history = curve("dice", [0.6, 0.7, 0.8], [0.6, 0.7, 0.8])
    assert findings(segmentation(), history) == [
        "the last epoch, 3, is the best: Dice on val is 0.800, at most 0.700 in earlier epochs;"
        " training may not have converged"
    ]
    level = curve("dice", [0.6, 0.8, 0.8], [0.6, 0.799, 0.8])
    assert findings(segmentation(), level) == []
    assert findings(segmentation(best=0), history[:1]) == [
        "training ran for only one epoch and has not converged"
    ]


def test_test_images_that_are_harder_than_those_of_validation() -> None:
    summary = classification(
        test_balanced_accuracy=0.7,
        test_balanced_accuracy_ci95=[0.65, 0.75],
        test_auroc=0.8,
        test_auroc_ci95=[0.75, 0.85],
    )
    assert findings(summary, []) == [
        "balanced accuracy is 0.900 (0.870 to 0.930) on val and 0.700 (0.650 to 0.750) on test,"
        " AUROC is 0.950 (0.930 to 0.970) on val and 0.800 (0.750 to 0.850) on test:"
        " the validation images do not represent the test images; they may resemble the training"
        " images, or the test images have another source"
    ]
    summary["metrics"]["test/balanced_accuracy_ci95"] = [0.65, 0.88]
    assert findings(summary, [])[0].startswith("AUROC is 0.950")
    summary["metrics"]["test/auroc_ci95"] = [0.65, 0.94]
    assert findings(summary, []) == []


def test_test_images_that_are_easier_than_those_of_validation() -> None:
    assert findings(segmentation(test_dice=0.95, test_dice_ci95=[0.93, 0.97]), []) == [
        "Dice is 0.850 (0.820 to 0.880) on val and 0.950 (0.930 to 0.970) on test: the test"
        " images are easier than the validation images, and the score on other images may be"
        " closer to that on val"
    ]


def test_an_interval_without_spread_is_ignored() -> None:
    assert findings(segmentation(test_dice=0.1, test_dice_ci95=[0.1, 0.1]), []) == []


def test_one_answer_for_every_image() -> None:
    summary = classification(
        **{"test_recall/ill": 1.0, "test_specificity/ill": 0.0},
        **{"test_recall/normal": 0.0, "test_specificity/normal": 1.0},
    )
    assert findings(summary, []) == [
        "all 150 test images are predicted as ill, the true class of 70"
    ]
    summary["warnings"] = findings(summary, [])
    assert findings(summary, []) == []


def test_a_class_that_is_never_recognised() -> None:
    counts = {"test": {"normal": 80, "ill": 70, "other": 30}}
    summary = classification(counts=counts, **{"test_recall/ill": 0.0, "test_recall/other": 0.0})
    assert findings(summary, []) == [
        "recall on test is 0 for ill (0 of 70 images), other (0 of 30 images)"
    ]


def test_masks_of_one_value() -> None:
    assert findings(segmentation(test_recall=0.0, test_precision=None), []) == [
        "no foreground pixel of the test images is predicted as foreground (recall 0)"
    ]
    assert findings(segmentation(test_recall=1.0, test_specificity=0.0), []) == [
        "every background pixel of the test images is predicted as foreground (specificity 0)"
    ]


def test_no_better_than_chance() -> None:
    level = {"val_auroc_ci95": [0.4, 0.97]}
    summary = classification(test_auroc=0.6, test_auroc_ci95=[0.45, 0.75], **level)
    assert findings(summary, []) == [
        "AUROC 0.600 (0.450 to 0.750) on test is not shown to be better than chance:"
        " the 95 % interval includes 0.5"
    ]
    summary = classification(test_auroc=0.3, test_auroc_ci95=[0.2, 0.45], **level)
    assert findings(summary, []) == ["AUROC 0.300 (0.200 to 0.450) on test is worse than chance"]


def test_several_scores_at_chance_share_one_sentence() -> None:
    summary = classification(
        **{"val_auroc_ci95": [0.4, 0.97], "test_auroc": 0.6, "test_auroc_ci95": [0.45, 0.75]},
        **{"test_mcc": 0.0, "test_mcc_ci95": [-0.3, 0.5]},
    )
    assert findings(summary, []) == [
        "AUROC 0.600 (0.450 to 0.750), Matthews correlation (MCC) 0.000 (-0.300 to 0.500) on test"
        " are not shown to be better than chance: the 95 % intervals include 0.5, 0"
    ]


def test_undefined_scores_are_named() -> None:
    summary = segmentation(test_auroc=None, test_iou_ci95=None, **{"test_dice/cup": None})
    assert findings(summary, []) == [
        "undefined on test because the denominator is zero: AUROC (pixels)"
    ]


def test_importing_it_loads_neither_matplotlib_nor_numpy() -> None:
    program = (
        "import sys; import medvision.reports.findings; "
        "print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
