"""All folds together test every image once; otherwise there are no pooled scores."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from medvision.metrics import (
    classification_intervals,
    classification_scores,
    mean_interval,
)
from medvision.run import main
from medvision.run.multirun.kfold import (
    CrossValidation,
    cross_validate,
    pool,
    write_folds,
)
from medvision.run.multirun.summary import summarise
from medvision.run.multirun.tables import print_folds

CLASSES = ("no", "yes")
Made = tuple[list[Path | None], list[list[str]]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Path, list[str]]]:
    """Write the run folder of one fold: twelve images, of which every third is tested."""

    def one(
        fold: int,
        *,
        seed: int = 0,
        folds: int = 3,
        tested: Sequence[int] | None = None,
        status: str = "finished",
        protocol: str = "kfold",
        threshold: float = 0.5,
        task: str = "classification",
        metrics: dict[str, Any] | None = None,
        more: tuple[str, ...] = (),
        **extra: Any,
    ) -> tuple[Path, list[str]]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}_brain"
        path.mkdir()
        own = range(fold, 12, folds) if tested is None else tested
        summary = {
            "experiment": "brain",
            "seed": seed,
            "status": status,
            "task": task,
            "threshold": threshold,
            "dataset": {"synthetic": False, "protocol": protocol, "fold": fold, "folds": folds},
            "metrics": {"test/accuracy": 0.5 + fold / 10} if metrics is None else metrics,
            **extra,
        }
        (path / "summary.json").write_text(json.dumps(summary))
        splits = [f"{'test' if i in own else 'train'},{image(i)},yes,g{i // 2}" for i in range(12)]
        (path / "splits.csv").write_text("\n".join(["split,path,target,group", *splits]) + "\n")
        write = {"classification": classified, "segmentation": segmented}[task]
        with (path / "predictions_test.csv").open("w", newline="") as stream:
            rows = [write(i, threshold) for i in own]
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        overrides = ["experiment=brain", f"seed={seed}", "data.protocol=kfold"]
        return path, [*overrides, f"data.fold={fold}", *more]

    return one


def image(index: int) -> str:
    return f"a/{index:02d}.png"


def probability(index: int) -> float:
    return (index * 7 % 12) / 12


def classified(index: int, threshold: float) -> dict[str, Any]:
    p = probability(index)
    return {
        "path": image(index),
        "target": CLASSES[index % 4 > 1],
        "predicted": CLASSES[p >= threshold],
        "probability/no": 1 - p,
        "probability/yes": p,
    }


def segmented(index: int, _: float) -> dict[str, Any]:
    dice = probability(index)
    shown = "" if index == 5 else dice / 2
    return {"path": image(index), "target": "", "predicted": "", "dice": dice, "iou": shown}


def together(*made: tuple[Path | None, list[str]]) -> Made:
    return [path for path, _ in made], [overrides for _, overrides in made]


def only(made: Made) -> CrossValidation:
    (found,) = cross_validate(summarise(*made))
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def screen(made: Made, *, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as printed:
        print_folds(cross_validate(summarise(*made)), console=console)
    return printed.get()


def test_folds_share_a_row_with_their_mean_and_spread(
    tmp_path: Path, make: Callable[..., Any]
) -> None:
    made = together(*(make(fold) for fold in range(3)))
    summarise(*made, base=tmp_path)
    (row,) = rows_of(tmp_path / "multirun_summary.csv")
    assert (row["runs"], row["seeds"], row["folds"]) == ("3", "0 0 0", "0 1 2")
    assert row["overrides"] == "data.protocol=kfold"
    assert float(row["test/accuracy_mean"]) == pytest.approx(0.6)
    runs = rows_of(tmp_path / "multirun_runs.csv")
    assert [run["fold"] for run in runs] == ["0", "1", "2"]


def test_pooled_scores_are_those_of_all_images_in_groups(make: Callable[..., Any]) -> None:
    found = only(together(*(make(fold) for fold in range(3))))
    order = [i for fold in range(3) for i in range(fold, 12, 3)]
    p = np.array([[1 - probability(i), probability(i)] for i in order])
    target = np.array([int(i % 4 > 1) for i in order])
    score = found.scores["test/accuracy"]
    assert score.pooled == classification_scores(p, target, class_names=CLASSES)["accuracy"]
    groups = [f"g{i // 2}" for i in order]
    ends = classification_intervals(p, target, class_names=CLASSES, groups=groups)["accuracy"]
    assert (score.low, score.high) == ends
    assert score.mean == pytest.approx(0.6)
    assert score.std == pytest.approx(statistics.stdev([0.5, 0.6, 0.7]))
    assert found.num_images == 12


def test_each_image_keeps_the_class_predicted_by_its_own_fold() -> None:
    thresholds = {0: 0.2, 1: 0.8}
    rows = [
        {key: str(value) for key, value in classified(i, thresholds[i % 2]).items()}
        for i in range(12)
    ]
    pooled = pool(rows, [row["path"] for row in rows], {0.2, 0.8}, task="classification")
    right = [row["target"] == row["predicted"] for row in rows]
    assert pooled["accuracy"][0] == pytest.approx(np.mean(right))
    p = np.array([[1 - probability(i), probability(i)] for i in range(12)])
    target = np.array([int(i % 4 > 1) for i in range(12)])
    expected = classification_scores(p, target, class_names=CLASSES)
    for name in ("auroc", "auroc/yes", "average_precision", "ece"):
        assert pooled[name][0] == pytest.approx(expected[name]), name


def test_segmentations_pool_the_scores_of_single_images(make: Callable[..., Any]) -> None:
    options = {"task": "segmentation", "metrics": {"test/dice": 0.5, "test/iou": None}}
    found = only(together(*(make(fold, **options) for fold in range(3))))
    order = [i for fold in range(3) for i in range(fold, 12, 3)]
    values = [probability(i) for i in order]
    dice = found.scores["test/dice"]
    assert dice.pooled == pytest.approx(np.mean(values))
    groups = [f"g{i // 2}" for i in order]
    assert (dice.low, dice.high) == mean_interval(values, groups=groups)
    iou = found.scores["test/iou"]  # undefined for one image: left out of the mean
    assert iou.pooled == pytest.approx(np.mean([probability(i) / 2 for i in order if i != 5]))
    assert (iou.mean, iou.std) == (None, None)
    assert found.notes == ()


def test_the_files_contain_the_pooled_scores(tmp_path: Path, make: Callable[..., Any]) -> None:
    made = together(*(make(fold, metrics={"test/accuracy": 0.5}) for fold in range(3)))
    (found,) = write_folds(tmp_path, summarise(*made))
    (row,) = rows_of(tmp_path / "kfold_summary.csv")
    assert (row["experiment"], row["seed"], row["folds"]) == ("brain", "0", "3")
    assert (row["metric"], row["mean"], row["std"]) == ("test/accuracy", "0.5", "0.0")
    assert float(row["pooled"]) == found.scores["test/accuracy"].pooled
    predictions = rows_of(tmp_path / "kfold_predictions.csv")
    assert sorted(row["path"] for row in predictions) == [image(i) for i in range(12)]
    assert predictions[4]["fold"] == "1"
    assert predictions[4]["run"] == made[0][1].name  # type: ignore[union-attr]
    assert float(predictions[4]["probability/yes"]) == probability(1)


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("failed", "no pooled scores: fold 1 of 3 failed"),
        ("never made", "no pooled scores: fold 1 of 3 failed"),
        ("not requested", "no pooled scores: fold 1 of 3 was not run"),
    ],
)
def test_scores_are_not_pooled_if_a_fold_is_missing(
    tmp_path: Path, make: Callable[..., Any], missing: str, note: str
) -> None:
    made = [make(0), make(1, status="failed"), make(2)]
    if missing == "never made":
        made[1] = (None, made[1][1])
    elif missing == "not requested":
        del made[1]
    (found,) = write_folds(tmp_path, summarise(*together(*made)))
    assert found.notes == (
        note,
        "no pooled scores: 4 of 12 images not tested by any fold, such as a/01.png",
    )
    score = found.scores["test/accuracy"]
    assert (score.mean, score.pooled, score.low) == (pytest.approx(0.6), None, None)
    (row,) = rows_of(tmp_path / "kfold_summary.csv")
    assert (row["folds"], row["pooled"], row["low"], row["high"]) == ("2", "", "", "")
    assert not (tmp_path / "kfold_predictions.csv").exists()
    shown = screen(together(*made), width=120)
    assert "2 of 3 folds" in shown
    assert note in shown


@pytest.mark.parametrize(
    ("tested", "note"),
    [
        ([1, 4, 7], "1 of 12 images not tested by any fold, such as a/10.png"),
        ([1, 4, 7, 10, 0], "1 of 12 images tested more than once, such as a/00.png"),
        ([1, 4, 7, 10, 99], "1 of 12 images not in the splits.csv of the first fold"),
    ],
)
def test_every_image_is_tested_exactly_once(
    make: Callable[..., Any], tested: list[int], note: str
) -> None:
    found = only(together(make(0), make(1, tested=tested), make(2)))
    assert found.notes[0].startswith(f"no pooled scores: {note}")
    assert found.scores["test/accuracy"].pooled is None
    assert not found.predictions


def test_a_fold_that_was_run_twice(make: Callable[..., Any]) -> None:
    found = only(together(make(0), make(1), make(1), make(2)))
    assert found.notes[0] == "no pooled scores: fold 1 was run 2 times"
    assert found.num_finished == 3


def test_each_seed_is_a_separate_cross_validation(tmp_path: Path, make: Callable[..., Any]) -> None:
    made = together(*(make(fold, seed=seed) for seed in (0, 1) for fold in range(3)))
    found = write_folds(tmp_path, summarise(*made))
    assert [one.seed for one in found] == [0, 1]
    assert len(rows_of(tmp_path / "kfold_predictions.csv")) == 24
    assert ", seed 1: 3 of 3 folds" in screen(made)


def test_another_override_is_another_cross_validation(make: Callable[..., Any]) -> None:
    made = together(
        *(make(fold, more=(f"data.root={root}",)) for root in "ab" for fold in range(3))
    )
    shown = screen(made)
    assert "brain data.root=a: 3 of 3 folds" in shown
    assert "brain data.root=b: 3 of 3 folds" in shown


@pytest.mark.parametrize(
    "options", [{"protocol": "grouped"}, {"sealed": True}, {"status": "failed"}], ids=str
)
def test_runs_without_tested_folds_create_no_file(
    tmp_path: Path, make: Callable[..., Any], options: dict[str, Any]
) -> None:
    made = together(*(make(fold, **options) for fold in range(3)))
    assert write_folds(tmp_path, summarise(*made)) == []
    assert not list(tmp_path.glob("kfold*"))


def test_seeds_of_one_fold_are_not_a_cross_validation(make: Callable[..., Any]) -> None:
    assert cross_validate(summarise(*together(*(make(1, seed=seed) for seed in range(3))))) == []


def test_the_screen_shows_pooled_scores_and_their_limits(make: Callable[..., Any]) -> None:
    metrics = {"test/accuracy": 0.5, "test/auroc": 0.75}
    shown = screen(together(*(make(fold, metrics=metrics) for fold in range(3))))
    assert "brain: 3 of 3 folds, 12 images, per cent" in shown
    assert "test auroc" in shown
    assert "75.00 ± 0.00" in shown
    assert "pool the probabilities of 3 models as if they were on one scale" in shown


@pytest.mark.slow
def test_phantoms_cross_validate_end_to_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    small: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    fewer = [o for o in small if not o.startswith("data.num_images")]
    command = ["-m", *fewer, "experiment=chest_xray_cnn", "model.base_channels=2", "audit=skip"]
    folds = ["data.num_images=40", "data.protocol=kfold", "data.folds=2", "data.fold=range(2)"]
    assert main([*command, *folds]) == 0
    (base,) = tmp_path.glob("runs/multirun/*")
    predictions = rows_of(base / "kfold_predictions.csv")
    assert len({row["path"] for row in predictions}) == len(predictions) == 40
    scores = {row["metric"]: row for row in rows_of(base / "kfold_summary.csv")}
    right = [row["target"] == row["predicted"] for row in predictions]
    assert float(scores["test/accuracy"]["pooled"]) == pytest.approx(np.mean(right))
    own = [float(run["test/accuracy"]) for run in rows_of(base / "multirun_runs.csv")]
    assert float(scores["test/accuracy"]["mean"]) == pytest.approx(np.mean(own))
    assert len(rows_of(tmp_path / "runs" / "test_ledger.csv")) == 2
    shown = capfd.readouterr().out
    assert "kfold protocol, fold 1 of 2" in shown
    assert "2 of 2 folds, 40 images" in shown
    assert "sealed" not in shown


def test_folds_without_a_test_image_of_a_class_are_named(make: Callable[..., Any]) -> None:
    notes = only(together(*(make(fold, folds=4) for fold in range(4)))).notes
    named = [note for note in notes if "has no test image of" in note]
    assert [note.split(":")[0] for note in named] == [
        *(f"fold {fold} has no test image of yes" for fold in (0, 1)),
        *(f"fold {fold} has no test image of no" for fold in (2, 3)),
    ]
    assert "mix scores of different classes; pooled scores do not" in named[0]
    complete = only(together(*(make(fold) for fold in range(3)))).notes
    assert not any("no test image" in note for note in complete)
