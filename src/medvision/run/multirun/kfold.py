"""Cross-validation: average and pool the scores over all folds of one command."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvision.comparison.runs import mean_and_std
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.samples import Sample
from medvision.files import read_rows, write_table
from medvision.metrics import (
    classification_intervals,
    classification_scores,
    mean_defined,
    mean_interval,
)
from medvision.run.multirun.summary import Group, Run, metrics_of
from medvision.scores import score_named

Pooled = dict[str, tuple[float, float, float]]
"""Score, low and high end of its 95 % interval, by name; NaN where undefined."""


def pool(
    rows: Sequence[Mapping[str, str]],
    groups: Sequence[str] | None,
    thresholds: Collection[float],
    *,
    task: str,
) -> Pooled:
    """Scores of all images together.

    For classification, those of ``classification_scores``. Otherwise means over images of the
    per-image scores, such as Dice and IoU at both sizes, of the foreground and of each class.

    Args:
        rows: Rows of ``predictions_test.csv`` of every run.
        groups: Group of each row; images of one group are resampled together. None if every image
            is its own group.
        thresholds: Thresholds of the runs. If they differ, scores that depend on a threshold use
            the class predicted for each image.
        task: Kind of the task.
    """
    names = [name.partition("/")[2] for name in rows[0] if name.startswith("probability/")]
    if not names:
        pooled = {}
        for name in rows[0]:
            score = score_named(name, task)
            if score is not None and score.per_image:
                values = [float(row[name] or "nan") for row in rows]
                upper = 1.0 if score.bounded else None
                interval = mean_interval(values, groups=groups, upper=upper)
                pooled[name] = (mean_defined(values)[0], *interval)
        return pooled
    probability = np.array([[float(row[f"probability/{name}"]) for name in names] for row in rows])
    index = {name: number for number, name in enumerate(names)}
    target = np.array([index[row["target"]] for row in rows])
    if len(thresholds) == 1:
        return _classified(probability, target, names, groups, next(iter(thresholds)))
    predicted = np.eye(len(names))[[index[row["predicted"]] for row in rows]]
    decided = _classified(predicted, target, names, groups, 0.5)
    others = _classified(probability, target, names, groups, 0.5)

    def counts_classes(name: str) -> bool:
        score = score_named(name, task)
        return score is not None and score.of_predicted_classes

    return {name: (decided if counts_classes(name) else others)[name] for name in others}


def _classified(
    probability: NDArray[np.float64],
    target: NDArray[np.int64],
    names: Sequence[str],
    groups: Sequence[str] | None,
    threshold: float,
) -> Pooled:
    options: dict[str, Any] = {"class_names": names, "threshold": threshold}
    scores = classification_scores(probability, target, **options)
    intervals = classification_intervals(probability, target, groups=groups, **options)
    unknown = (float("nan"), float("nan"))
    return {name: (score, *intervals.get(name, unknown)) for name, score in scores.items()}


class FoldScore(NamedTuple):
    """One score over the folds; None if it is undefined or not pooled.

    Attributes:
        mean: Mean over the finished folds.
        std: Sample standard deviation (n - 1) over the finished folds.
        pooled: Score of all out-of-fold predictions together.
        low: Low end of its 95 % interval.
        high: High end of its 95 % interval.
    """

    mean: float | None
    std: float | None
    pooled: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """Folds of one experiment and one seed.

    Attributes:
        group: Group that contains the runs.
        runs: One per fold, finished or not.
        num_folds: Number of folds.
        num_images: Number of images in the set.
        scores: By metric, such as ``test/dice``, the headline first.
        predictions: Out-of-fold predictions, a row per image; empty if they are not complete.
        notes: Notes for the reader, such as why nothing is pooled.
    """

    group: Group
    seed: int | str | None
    runs: tuple[Run, ...]
    num_folds: int
    num_images: int
    scores: Mapping[str, FoldScore]
    predictions: Sequence[Mapping[str, Any]] = field(repr=False)
    notes: tuple[str, ...]

    @property
    def num_finished(self) -> int:
        """Number of finished folds."""
        return len({run.fold for run in self.runs if run.finished})


def cross_validate(groups: Sequence[Group]) -> list[CrossValidation]:
    """Collect the folds of each experiment and seed.

    Scores are pooled only if every image is tested exactly once; otherwise a note gives the reason.

    Args:
        groups: From ``summarise``.

    Returns:
        Empty for groups that were not tested, or that did not vary ``data.fold`` of the protocol
        ``kfold``.
    """
    found = []
    for group in groups:
        folds = {run.fold for run in group.runs}
        protocols = {run.summary["dataset"].get("protocol") for run in group.finished}
        if len(folds) < 2 or protocols != {"kfold"} or group.sealed:
            continue
        for seed in dict.fromkeys(run.seed for run in group.finished):
            # a run that never started has its seed as the text of the command
            runs = tuple(run for run in group.runs if str(run.seed) == str(seed))
            found.append(_validate(group, seed, runs))
    return found


def write_folds(base: Path, groups: Sequence[Group]) -> list[CrossValidation]:
    """Write ``kfold_summary.csv``, a row per score, and ``kfold_predictions.csv``, one per image.

    Neither is written without a cross-validation; incomplete predictions are not written.

    Args:
        base: Folder of the command.
        groups: From ``summarise``.

    Returns:
        Result of `cross_validate`.
    """
    found = cross_validate(groups)
    scores = [
        {**_names(one), "folds": one.num_finished, "metric": metric, **score._asdict()}
        for one in found
        for metric, score in one.scores.items()
    ]
    predictions = [{**_names(one), **row} for one in found for row in one.predictions]
    if scores:
        write_table(base / "kfold_summary.csv", scores)
    if predictions:
        write_table(base / "kfold_predictions.csv", predictions)
    return found


def _names(one: CrossValidation) -> dict[str, Any]:
    first = one.runs[0]
    return {
        "experiment": first.experiment,
        "overrides": " ".join(first.overrides),
        "seed": one.seed,
    }


def _validate(group: Group, seed: int | str | None, runs: tuple[Run, ...]) -> CrossValidation:
    finished = [run for run in runs if run.finished]
    samples = {sample.path: sample for sample in read_splits(_file(finished[0], "splits.csv"))}
    predictions = [_predictions(run) for run in finished]
    num_folds = int(finished[0].summary["dataset"]["folds"])
    faults = [*_missing_folds(runs, num_folds), *_not_once(samples, predictions)]
    pooled: Pooled = {}
    notes = [f"no pooled scores: {fault}" for fault in faults]
    if not faults:
        tested = [row for part in predictions for row in part]
        groups = [samples[row["path"]].group or row["path"] for row in tested]
        pooled = pool(
            tested,
            groups if len(set(groups)) < len(groups) else None,
            {run.summary.get("threshold", 0.5) for run in finished},
            task=str(finished[0].summary["task"]),
        )
        if any(name.startswith("probability/") for name in tested[0]):
            notes = [
                f"AUROC, average precision and ECE pool the probabilities of {len(finished)} models"
                " as if they were on one scale; their means over folds do not"
            ]
    notes += _absent_classes(finished, predictions)
    scores = {}
    for metric in (name for name in metrics_of(finished) if name.startswith("test/")):
        together = pooled.get(metric.removeprefix("test/"), ())
        scores[metric] = FoldScore(
            *mean_and_std(run.scores.get(metric) for run in finished),
            *(None if math.isnan(value) else value for value in together),
        )
    rows = [
        {"fold": run.fold, "run": _file(run).name, **row}
        for run, part in zip(finished, predictions, strict=True)
        for row in part
    ]
    return CrossValidation(
        group=group,
        seed=seed,
        runs=runs,
        num_folds=num_folds,
        num_images=len(samples),
        scores=scores,
        predictions=[] if faults else rows,
        notes=tuple(notes),
    )


def _absent_classes(
    runs: Sequence[Run], predictions: Sequence[Sequence[Mapping[str, str]]]
) -> Iterable[str]:
    """Notes on folds without a test image of a class, whose scores are of the other classes."""
    for run, rows in zip(runs, predictions, strict=True):
        names = [name.partition("/")[2] for name in rows[0] if name.startswith("probability/")]
        tested = {row.get("target") for row in rows}
        if absent := [name for name in names if name not in tested]:
            yield (
                f"fold {run.fold} has no test image of {', '.join(absent)}: its scores that average"
                " over classes leave it out, so the means over folds mix scores of different"
                " classes; pooled scores do not"
            )


def _missing_folds(runs: Sequence[Run], num_folds: int) -> Iterable[str]:
    started = Counter(int(run.fold or 0) for run in runs)
    done = Counter(int(run.fold or 0) for run in runs if run.finished)
    for fold in range(num_folds):
        if not done[fold]:
            yield f"fold {fold} of {num_folds} " + ("failed" if started[fold] else "was not run")
        elif done[fold] > 1:
            yield f"fold {fold} was run {done[fold]} times"


def _not_once(
    samples: Mapping[str, Sample], predictions: Sequence[Sequence[Mapping[str, str]]]
) -> Iterable[str]:
    times = Counter(row["path"] for part in predictions for row in part)
    never = [path for path in samples if not times[path]]
    often = [path for path, count in times.items() if count > 1]
    strange = [path for path in times if path not in samples]
    for paths, what in (
        (never, "not tested by any fold"),
        (often, "tested more than once"),
        (strange, "not in the splits.csv of the first fold"),
    ):
        if paths:
            yield f"{len(paths)} of {len(samples)} images {what}, such as {paths[0]}"


def _predictions(run: Run) -> list[dict[str, str]]:
    return read_rows(_file(run, "predictions_test.csv"))


def _file(run: Run, name: str = "") -> Path:
    assert run.path is not None, "a finished run has a folder"
    return run.path / name
