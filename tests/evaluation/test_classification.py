"""Evaluation of network outputs, without a network."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from medvision.data import ClassificationData
from medvision.data.samples import Sample
from medvision.evaluation import ClassificationEvaluation
from medvision.metrics import (
    apply_temperature,
    fit_temperature,
    logits_of,
    mean_interval,
    wilson_interval,
)
from medvision.metrics.calibration import Calibration
from medvision.types import Stage


class Images:
    """Minimal prepared data: names, tables and groups."""

    def __init__(self, class_names: Sequence[str], *, per_group: int = 1) -> None:
        self.class_names, self.per_group = list(class_names), per_group
        self.tables: dict[Stage, list[Sample]] = {}

    def groups_of(self, rows: Sequence[dict[str, Any]]) -> list[str] | None:
        numbers = [row // self.per_group for row in range(len(rows))]
        return None if self.per_group == 1 else [f"patient {number}" for number in numbers]


NAMES = ("a", "b", "c", "d")


def outputs(num_classes: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of an overconfident network, and targets."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, num_classes, (size,), generator=generator)
    noise = torch.randn(size, num_classes, generator=generator)
    logits = 5 * noise + 6 * torch.nn.functional.one_hot(target, num_classes)
    return logits[:, 1:] - logits[:, :1] if num_classes == 2 else logits, target


def see(evaluation: ClassificationEvaluation, stage: Stage, num_classes: int, size: int) -> Any:
    """Let the evaluation watch a split, and measure it."""
    logits, target = outputs(num_classes, size, seed={"val": 1, "test": 2, "train": 3}[stage])
    samples = [Sample(path=f"{stage}/{k}", target=NAMES[t]) for k, t in enumerate(target)]
    evaluation.data.tables[stage] = samples
    watcher = evaluation.watch(stage)
    for rows in torch.arange(size).split(16):
        batch: Any = {"target": target[rows].to(torch.uint8), "index": rows}
        watcher.on_test_batch_end(cast(Any, None), cast(Any, None), logits[rows], batch, 0)
    return evaluation.scores(stage, {f"{stage}/loss": 0.5})


def evaluation(
    folder: Path, num_classes: int, *, per_group: int = 1, **options: Any
) -> ClassificationEvaluation:
    images = Images(NAMES[:num_classes], per_group=per_group)
    data = cast(ClassificationData, images)
    return ClassificationEvaluation(folder=folder, data=data, **{"threshold": 0.5, **options})


def class_logits(num_classes: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    logits, target = outputs(num_classes, size, seed)
    known = np.pad(logits.double().numpy(), ((0, 0), (int(num_classes == 2), 0)))
    return known, target.numpy()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_score_has_an_interval_and_only_loss_and_counts_have_none(
    tmp_path: Path, num_classes: int
) -> None:
    measured = evaluation(tmp_path, num_classes)
    scores = see(measured, "val", num_classes, 60) | see(measured, "test", num_classes, 80)
    without = {
        name for name in scores if not name.endswith("_ci95") and scores.get(f"{name}_ci95") is None
    }
    assert {name.split("/")[1] for name in without} == {"loss", "confusion"}
    for name in [name for name in scores if name.endswith("_ci95")]:
        low, high = scores[name]
        assert low <= scores[name.removesuffix("_ci95")] <= high or "ece" in name


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_temperature_comes_from_validation_and_is_used_on_test(
    tmp_path: Path, num_classes: int
) -> None:
    measured = evaluation(tmp_path, num_classes, per_group=4)
    scores = see(measured, "val", num_classes, 60) | see(measured, "test", num_classes, 80)
    fitted = fit_temperature(*class_logits(num_classes, 60, seed=1))
    calibration = measured.details()["calibration"]
    assert calibration["temperature"] == pytest.approx(fitted.value)
    assert (calibration["fitted_on"], calibration["num_images"]) == ("val", 60)
    logits, target = class_logits(num_classes, 80, seed=2)
    images = Calibration(apply_temperature(logits, fitted.value), target)
    for name, (value,) in images.scores().items():
        assert scores[f"test/{name}_calibrated"] == pytest.approx(value)
    groups = [row // 4 for row in range(80)]
    upper = 1 if num_classes == 2 else 2
    expected = mean_interval(images.squared_errors, groups=groups, upper=upper)
    assert scores["test/brier_calibrated_ci95"] == pytest.approx(expected)
    assert scores["test/brier_calibrated"] < scores["test/brier"]  # the network was overconfident


def test_predictions_and_their_columns_are_those_before_the_temperature(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, 4)
    see(measured, "val", 4, 60)
    see(measured, "test", 4, 80)
    with (tmp_path / "predictions_test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "target", "predicted", *(f"probability/{n}" for n in NAMES)]
    raw = outputs(4, 80, seed=2)[0].softmax(dim=1).numpy()
    found = np.array([[float(row[f"probability/{n}"]) for n in NAMES] for row in rows])
    assert found == pytest.approx(raw, abs=1e-6)


def test_a_later_evaluation_uses_the_temperature_of_the_run(tmp_path: Path) -> None:
    first = evaluation(tmp_path, 2, threshold="youden")
    own = see(first, "val", 2, 60) | see(first, "test", 2, 80)
    known = first.details()
    again = evaluation(
        tmp_path,
        2,
        threshold=first.threshold,
        chosen_on="val",
        temperature=known["calibration"]["temperature"],
        validation=(first._watched["val"].probability, first._watched["val"].target),
    )
    scores = see(again, "test", 2, 80)
    assert {name: own[name] for name in scores} == scores
    assert again.details() == {n: known[n] for n in ("operating_points", "decision_curve")}
    assert again.notes == []


@pytest.mark.parametrize("num_classes", [2, 4])
def test_without_a_temperature_the_stored_validation_probabilities_give_it(
    tmp_path: Path, num_classes: int
) -> None:
    first = evaluation(tmp_path, num_classes)
    see(first, "val", num_classes, 60)
    seen = first._watched["val"]
    again = evaluation(tmp_path, num_classes, validation=(seen.probability, seen.target))
    scores = see(again, "test", num_classes, 80)
    expected = fit_temperature(logits_of(seen.probability), seen.target).value
    assert again.details()["calibration"]["temperature"] == expected
    assert expected == pytest.approx(first.details()["calibration"]["temperature"], rel=1e-9)
    assert scores["test/ece_calibrated"] >= 0


def test_operating_points_use_groups_prevalence_and_the_requested_sensitivity(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"prevalence": 0.02, "sensitivity": 0.8}
    points = []
    for per_group in (1, 4):
        measured = evaluation(tmp_path, 2, per_group=per_group, **options)
        see(measured, "val", 2, 60)
        see(measured, "test", 2, 80)
        points.append(measured.details()["operating_points"])
    alone, grouped = points
    assert alone[2]["name"] == grouped[2]["name"] == "80 % sensitivity"
    assert alone[0]["prevalence"] == 0.02
    assert alone[0]["ppv_at_prevalence"] == grouped[0]["ppv_at_prevalence"] < alone[0]["ppv"]
    hits, positives = alone[0]["sensitivity"], alone[0]["num_positives"]
    expected = wilson_interval(round(hits * positives), positives)
    assert alone[0]["sensitivity_ci95"] == pytest.approx(expected)
    low, high = grouped[0]["sensitivity_ci95"]
    assert high - low > expected[1] - expected[0]


def test_logits_distinguish_rounded_probabilities(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, 2)
    watcher = measured.watch("test")
    batch: Any = {"target": torch.tensor([1, 1]), "index": torch.tensor([0, 1])}
    logits = torch.tensor([[40.0], [60.0]], dtype=torch.bfloat16)
    watcher.on_test_batch_end(cast(Any, None), cast(Any, None), logits, batch, 0)
    assert watcher.probability[:, 1].tolist() == [1, 1]
    assert watcher.logits.tolist() == [[0, 40], [0, 60]]


def test_a_part_of_the_test_images_is_scored_like_all(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, 4, per_group=4)
    assert measured.tested() is None
    scores = see(measured, "val", 4, 60) | see(measured, "test", 4, 80)
    tested = measured.tested()
    assert tested is not None
    assert (len(tested.paths), tested.paths[3]) == (80, "test/3")
    everything = tested.scores(np.arange(80))
    assert everything == {name: scores[f"test/{name}"] for name in everything}
    assert {"accuracy", "accuracy_ci95", "auroc", "auroc_ci95"} <= set(everything)
    right = np.flatnonzero(
        outputs(4, 80, seed=2)[0].argmax(dim=1).numpy() == outputs(4, 80, seed=2)[1].numpy()
    )
    assert tested.scores(right)["accuracy"] == 1


def test_a_score_without_an_interval_is_shown_with_the_reason(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, 2)
    measured.note_missing_intervals(
        "test",
        {
            "test/recall": 1.0,
            "test/recall_ci95": [0.5, 1.0],
            "test/auroc": 0.9,
            "test/auroc_ci95": None,
            "test/false_positives_per_image": 21.0,
            "test/false_positives_per_image_ci95": None,
            "test/recall/sick": 1.0,
            "test/recall/sick_ci95": None,
            "test/own": 1.0,
            "test/own_ci95": None,
            "test/average_precision": 0.9,
            "test/average_precision_ci95": None,
            "test/ece": 0.1,
            "test/ece_ci95": None,
            "test/specificity": None,
            "test/specificity_ci95": None,
            "val/auroc": 0.9,
            "val/auroc_ci95": None,
        },
    )
    assert measured.notes == [
        "no 95 % interval of test AUROC, sensitivity (recall) of sick, average precision: two"
        " images (or groups) are needed of each true and predicted class that the score counts",
        "no 95 % interval of test false positives per image, own: 100 images (or groups) with"
        " unequal values are needed, because no upper bound of the score is known",
        "no 95 % interval of test calibration error (ECE): 10 images (or groups) are needed",
    ]


def test_a_note_names_some_of_many_scores_without_interval(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, 2)
    named = {f"test/recall/{k}": 1.0 for k in range(10)}
    measured.note_missing_intervals("test", {**named, **{f"{name}_ci95": None for name in named}})
    (note,) = measured.notes
    assert note.startswith("no 95 % interval of test sensitivity (recall) of 0, ")
    assert "of 7, and 2 further scores: two images" in note


def seen_as(
    measured: ClassificationEvaluation, stage: Stage, targets: Sequence[int], answers: Sequence[int]
) -> list[str]:
    """Notes after a split of two classes was predicted as the given answers."""
    target, logits = torch.tensor(targets), 4.0 * torch.tensor(answers)[:, None] - 2
    samples = [Sample(path=f"{k}", target=NAMES[t]) for k, t in enumerate(targets)]
    measured.data.tables[stage] = samples
    batch: Any = {"target": target.to(torch.uint8), "index": torch.arange(len(targets))}
    measured.watch(stage).on_test_batch_end(cast(Any, None), cast(Any, None), logits, batch, 0)
    measured.scores(stage, {f"{stage}/loss": 0.5})
    return [note for note in measured.notes if "predicted" in note and "interval" not in note]


def test_one_answer_for_all_images_has_one_note_for_both_splits(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, 2)
    assert seen_as(measured, "val", [0, 0, 1], [0, 0, 0]) == [
        "all 3 val images are predicted as a, the true class of 2"
    ]
    assert seen_as(measured, "test", [0, 1, 1, 1], [0, 0, 0, 0]) == [
        "all 4 test images are predicted as a, the true class of 1"
    ]
    missing = [note for note in measured.notes if note.startswith("no 95 % interval of ")]
    about = [note.removeprefix("no 95 % interval of ").partition(" ")[2] for note in missing]
    assert len(about) == len(set(about)) > 0


def test_other_answers_on_val_keep_their_own_note(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, 2)
    seen_as(measured, "val", [0, 0, 1], [0, 0, 0])
    assert seen_as(measured, "test", [0, 1, 1], [0, 1, 0]) == [
        "all 3 val images are predicted as a, the true class of 2"
    ]
    # one class alone is no finding, nor is a single image
    measured = evaluation(tmp_path, 2)
    assert seen_as(measured, "val", [0, 0], [0, 0]) == []
    assert seen_as(measured, "test", [1], [0]) == [
        "b was never predicted on test, although 1 image contains it"
    ]
