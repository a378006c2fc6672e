"""Files of a classification run, and the correctness of their numbers."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
)

from medvision.metrics import choose_threshold
from medvision.run import main

BRAIN = ["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary_at(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def probabilities_of(rows: list[dict[str, str]]) -> np.ndarray:
    columns = [name for name in rows[0] if name.startswith("probability/")]
    return np.array([[float(row[name]) for name in columns] for row in rows])


@pytest.fixture(params=["finished_chest", "finished_brain"])
def run(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_every_file_and_plot_is_there(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    plots = ("loss", "accuracy", "roc", "precision_recall", "confusion", "calibration")
    assert {f"plots/{name}.png" for name in (*plots, "auroc", "test_images")} <= names
    assert {"predictions_test.csv", "predictions_val.csv", "splits.csv", "metrics.csv"} <= names
    assert not [name for name in names if ".tmp" in name]


def test_the_predictions_hold_a_probability_for_each_class(run: Path) -> None:
    rows = rows_of(run / "predictions_test.csv")
    names = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["medvision"]["class_names"]
    assert list(rows[0]) == ["path", "target", "predicted", *(f"probability/{n}" for n in names)]
    assert probabilities_of(rows).sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert {row["target"] for row in rows} == set(names)
    assert len(rows) == summary_at(run)["dataset"]["num_images"]["test"]


def test_the_scores_are_those_of_the_predictions(run: Path) -> None:
    summary = summary_at(run)
    for stage in ("val", "test"):
        rows = rows_of(run / f"predictions_{stage}.csv")
        probability, true = probabilities_of(rows), [row["target"] for row in rows]
        predicted = [row["predicted"] for row in rows]
        names = [n.partition("/")[2] for n in rows[0] if n.startswith("probability/")]
        if len(names) == 2:
            positive = [name == names[1] for name in true]
            area = roc_auc_score(positive, probability[:, 1])
            precision = average_precision_score(positive, probability[:, 1])
            above = probability[:, 1] >= summary["threshold"]
            assert predicted == [names[int(yes)] for yes in above]
        else:
            one_hot = np.array([[name == other for other in names] for name in true])
            area = roc_auc_score(one_hot, probability, average="macro")
            precision = average_precision_score(one_hot, probability, average="macro")
            assert predicted == [names[k] for k in probability.argmax(axis=1)]
        metrics = {k.removeprefix(f"{stage}/"): v for k, v in summary["metrics"].items()}
        assert metrics["auroc"] == pytest.approx(area)
        assert metrics["average_precision"] == pytest.approx(precision)
        assert metrics["accuracy"] == pytest.approx(accuracy_score(true, predicted))
        expected = balanced_accuracy_score(true, predicted)
        assert metrics["balanced_accuracy"] == pytest.approx(expected)
        low, high = metrics["accuracy_ci95"]
        assert low <= metrics["accuracy"] <= high
        cells = {(a, b): metrics[f"confusion/{a}/{b}"] for a in names for b in names}
        pairs = list(zip(true, predicted, strict=True))
        assert cells == {cell: pairs.count(cell) for cell in cells}


def test_the_epochs_log_every_score_of_both_splits(run: Path) -> None:
    header, *rows = (line.split(",") for line in (run / "metrics.csv").read_text().splitlines())
    assert header[:5] == ["epoch", "train/loss", "val/loss", "train/accuracy", "val/accuracy"]
    names = summary_at(run)["dataset"]["class_counts"]["train"]
    each = ("precision", "recall", "f1", "auroc", "average_precision")
    wanted = ["balanced_accuracy", "auroc", "ece", *(f"{m}/{n}" for m in each for n in names)]
    wanted += [f"confusion/{a}/{b}" for a in names for b in names]
    assert {f"{stage}/{name}" for stage in ("train", "val") for name in wanted} <= set(header)
    assert len(rows) == 2


def test_the_checkpoint_stores_the_class_names_in_order(finished_brain: Path) -> None:
    facts = torch.load(finished_brain / "checkpoints/best.ckpt", weights_only=True)["medvision"]
    assert facts["class_names"] == BRAIN
    assert facts["task"] == "classification"
    assert list(summary_at(finished_brain)["dataset"]["class_counts"]["val"]) == BRAIN


def test_the_threshold_is_chosen_on_validation_and_stored_in_summary_and_checkpoint(
    finished_chest: Path,
) -> None:
    summary = summary_at(finished_chest)
    rows = rows_of(finished_chest / "predictions_val.csv")
    positive = np.array([row["target"] == "PNEUMONIA" for row in rows])
    score = probabilities_of(rows)[:, 1]
    chosen = choose_threshold(score, positive.astype(int), standard_errors=1)
    assert summary["threshold"] == pytest.approx(chosen)
    tried = np.unique(np.concatenate([score, [chosen]]))
    balanced = [balanced_accuracy_score(positive, score >= threshold) for threshold in tried]
    own = balanced_accuracy_score(positive, score >= chosen)
    assert own >= max(balanced) - 0.5 / np.sqrt(min(positive.sum(), (~positive).sum()))
    facts = torch.load(finished_chest / "checkpoints/best.ckpt", weights_only=True)["medvision"]
    assert facts["threshold"] == summary["threshold"]
    assert [w for w in summary["warnings"] if "test images were not used" in w]


def test_the_checkpoint_stores_the_preprocessing(
    train: Callable[..., Path],
) -> None:
    run = train("experiment=chest_xray_lite0", "model.weights=none", "data.train_transforms={}")
    facts = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["medvision"]
    assert facts["eval_transforms"] == {"Equalize": {}}
    assert facts["model"]["arguments"]["name"] == "tf_efficientnet_lite0"
    assert (facts["image_size"], facts["in_channels"]) == (32, 1)


def test_the_merged_protocol_is_named_beside_its_scores(
    train: Callable[..., Path],
    make_class_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_class_folder({f"{s}/{c}": 14 for s in ("Training", "Testing") for c in ("a", "b")})
    run = train(
        "experiment=brain_mri_cnn",
        "model.base_channels=2",
        f"data.root={root}",
        "data.protocol=merged",
    )
    summary = summary_at(run)
    assert summary["dataset"]["protocol"] == "merged"
    assert [w for w in summary["warnings"] if "MERGED PROTOCOL LEAKS" in w]
    printed, shown = capsys.readouterr().out, run.relative_to(Path.cwd())
    assert "merged protocol" in printed
    assert printed.splitlines()[-2:] == [f"report: {shown / 'report.html'}", str(shown)]
    assert {Path(row["path"]).parts[0] for row in rows_of(run / "predictions_test.csv")} == {
        "Training",
        "Testing",
    }


@pytest.mark.slow
def test_a_user_folder_with_three_classes_in_colour(
    train: Callable[..., Path], make_class_folder: Callable[..., Path]
) -> None:
    root = make_class_folder({"b b": 20, "a": 20, "Z": 20})
    run = train(
        "experiment=brain_mri_cnn",
        "data=folder_classification",
        "model.base_channels=2",
        f"data.root={root}",
        "data.in_channels=3",
        "data.sampler=balanced",
        "loss.class_weights=balanced",
        "data.val_fraction=0.2",
        "data.test_fraction=0.2",
    )
    summary = summary_at(run)
    assert list(summary["dataset"]["class_counts"]["train"]) == ["a", "b b", "Z"]
    assert summary["metrics"]["train/loss"] > 0
    assert len(rows_of(run / "splits.csv")) == 60


@pytest.mark.draws
def test_a_validation_split_of_one_class_has_no_auroc_and_a_note(
    train: Callable[..., Path], make_class_folder: Callable[..., Path]
) -> None:
    root = make_class_folder({"train/a": 8, "train/b": 8, "val/a": 4, "test/a": 4, "test/b": 4})
    run = train("experiment=chest_xray_cnn", "model.base_channels=2", f"data.root={root}")
    summary = summary_at(run)
    assert summary["metrics"]["val/auroc"] is None
    assert rows_of(run / "metrics.csv")[0]["val/auroc"] == ""
    assert summary["metrics"]["test/auroc"] is not None
    warnings = " ".join(summary["warnings"])
    assert "no file name follows the published chest_xray set" in warnings
    assert "val has no b: AUROC" in warnings
    assert "val/auroc was undefined in every epoch: best.ckpt holds the last epoch" in warnings


@pytest.mark.parametrize(
    "override",
    ["data.val_fraction=0", pytest.param("data.test_fraction=0", marks=pytest.mark.slow)],
)
def test_a_split_may_be_empty(train: Callable[..., Path], override: str) -> None:
    run = train("experiment=brain_mri_cnn", "model.base_channels=2", override)
    left_out = "test" if "test" in override else "val"
    assert not [n for n in summary_at(run)["metrics"] if n.startswith(f"{left_out}/")]
    assert (run / "plots/loss.png").exists()


def test_mixed_batches_have_a_loss_and_no_other_training_score(train: Callable[..., Path]) -> None:
    run = train(
        "experiment=brain_mri_cnn",
        "model.base_channels=2",
        "task.mixing.mixup_alpha=0.4",
        "task.mixing.cutmix_alpha=1.0",
    )
    (row,) = rows_of(run / "metrics.csv")
    assert float(row["train/loss"]) > 0
    assert "train/accuracy" not in row
    assert float(row["val/accuracy"]) >= 0


@pytest.mark.slow
def test_repeats_over_seeds_equal_the_single_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*small, "experiment=brain_mri_cnn", "model.base_channels=2"]
    assert main(["-m", *arguments, "seed=0,1"]) == 0
    (table,) = tmp_path.glob("runs/multirun/*/multirun_summary.csv")
    (row,) = rows_of(table)
    single = []
    for seed in (0, 1):
        assert main([*arguments, f"seed={seed}", f"run_dir={tmp_path / str(seed)}"]) == 0
        single.append(summary_at(tmp_path / str(seed))["metrics"]["test/accuracy"])
    assert [float(value) for value in row["test/accuracy_runs"].split()] == single
    assert float(row["test/accuracy_mean"]) == pytest.approx(np.mean(single))
    assert float(row["test/accuracy_std"]) == pytest.approx(np.std(single, ddof=1))


@pytest.mark.slow
def test_weights_of_a_finished_run_start_another_task(
    train: Callable[..., Path],
    finished_brain: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lite0 = ("experiment=brain_mri_lite0", "model.weights=none", "data.image_size=32")
    first = train(*lite0, "trainer.limit_train_batches=1", "run_dir=runs/first/run")
    best = first / "checkpoints/best.ckpt"
    capsys.readouterr()
    second = train(
        "experiment=polyp_unet_lite0", f"model.weights={best}", "trainer.limit_train_batches=1"
    )
    out = capsys.readouterr().out
    weights = summary_at(second)["model"]["weights"]
    assert weights["source"] == str(best)
    assert weights["taken"] > 250
    assert str(best) in out
    assert "unused in the file" in out
