"""Finished runs read from their folders, and groups of runs that differ in seed or fold only.

Reads text files only; no torch.
"""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import MedvisionError
from medvision.reports.page import setting_in_words
from medvision.reports.run_files import RunFiles
from medvision.scores import names_at
from medvision.task_definition import task_of
from medvision.types import STAGES

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""False and true positive rate, (T,) each, from the strictest threshold down."""

EpochRow = Mapping[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class FinishedRun(RunFiles):
    """What the folder of a finished run tells."""

    @property
    def name(self) -> str:
        """The folder and the one that it lies in: the experiment, or the command, and the time."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return str(self.summary["experiment"])

    @property
    def seed(self) -> int:
        """Seed of weights, order and augmentation."""
        return int(self.summary["seed"])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its config as ``settings_of``: equal for runs that differ in their seed only."""
        return settings_of(self.config)

    @property
    def protocol(self) -> str | None:
        """How images were split; None where runs of older versions do not say."""
        found = self.dataset.get("protocol", self.settings.get("data.protocol"))
        return None if found is None else str(found)

    @property
    def fold(self) -> int | None:
        """Which part of a k-fold split was tested; None for other protocols."""
        fold = self.settings.get("data.fold")
        return int(fold) if self.protocol == "kfold" and fold is not None else None

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Every metric but the intervals, by name; None where it is undefined."""
        return plain_scores(self.metrics)

    def interval(self, metric: str) -> list[float] | None:
        """The 95 % interval of a metric over test images; None where there is none."""
        ends: list[float] | None = self.metrics.get(f"{metric}_ci95")
        return ends

    @cached_property
    def history(self) -> list[EpochRow]:
        """A row per epoch, as metrics.csv holds them; None where a value is undefined."""
        path = self.folder / "metrics.csv"
        numbers = [
            {name: _number(path, cell) for name, cell in row.items()}
            for row in _rows(path, "epoch")
        ]
        return [{**row, "epoch": int(row["epoch"] or 0)} for row in numbers]

    @cached_property
    def classes(self) -> list[str]:
        """Classes of images whose probability the run predicted; none where it predicts masks."""
        prefix = "probability/"
        names = self.predictions[0] if self.predictions else ()
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def roc(self) -> Points | None:
        """ROC of the test pixels, or of the test images: for several classes their macro mean.

        Returns:
            None where the run wrote none, or where it is undefined: no positives or no negatives.
        """
        per_pixel = task_of(self.task).per_pixel
        curves = self._pixel_roc() if per_pixel else self._image_roc()
        known = [curve for curve in curves if np.isfinite(curve).all()]
        if len(known) < 2:
            return known[0] if known else None
        from medvision.reports.plots.classification import macro_mean  # draws too: loads matplotlib

        return macro_mean(known)

    def _pixel_roc(self) -> Iterator[Points]:
        path = self.folder / "roc_test.csv"
        if path.is_file():  # runs of older versions have none
            rows = _rows(path, "false_positive_rate", "true_positive_rate")
            yield (
                np.array([_number(path, row["false_positive_rate"]) for row in rows], float),
                np.array([_number(path, row["true_positive_rate"]) for row in rows], float),
            )

    def _image_roc(self) -> Iterator[Points]:
        from medvision.metrics import roc_points

        path, rows = self.folder / "predictions_test.csv", self.predictions
        for name in self.classes[1:] if len(self.classes) == 2 else self.classes:
            score = np.array([_number(path, row[f"probability/{name}"]) for row in rows], float)
            positive = np.array([row["target"] == name for row in rows])
            yield roc_points(score, positive)[:2]


def read_run(path: Path) -> FinishedRun:
    """Read the summary and the config of a finished run.

    Raises:
        MedvisionError: If the folder is not that of a run, or the run has not finished.
    """
    if not (path / "summary.json").is_file():
        raise _no_run(path, "summary.json")
    run = FinishedRun.read(path)
    if "evaluated" in run.summary:
        raise MedvisionError(
            "this folder holds an evaluation, not a run",
            where=str(path),
            hint="name the run that was evaluated",
        )
    if not (path / "config.yaml").is_file():
        raise _no_run(path, "config.yaml")
    missing = {"experiment", "seed", "status", "task", "metrics"} - set(run.summary)
    if missing:
        raise MedvisionError(
            f"summary.json lacks {', '.join(sorted(missing))}",
            where=str(path),
            hint="name a folder that training wrote",
        )
    status = run.summary["status"]
    if status != "finished":
        raise MedvisionError(
            f"the run has not finished: its status is {status}",
            where=str(path),
            hint=f"go on with it by resume={path}",
        )
    return run


def _no_run(path: Path, name: str) -> MedvisionError:
    return MedvisionError(
        f"not a run folder: it holds no {name}",
        where=str(path),
        hint="name folders that training wrote, such as runs/<experiment>/<time>",
    )


NO_SETTINGS = (("run_dir",), ("resume",), ("trust",), ("checkpoint", "every_minutes"))
"""Keys of a config that change nothing in what is learned."""


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config by dotted key, without what differs between runs of one setting.

    Every ``seed`` is left out, and so is what says where, when and for which search a run was
    made; paths below the run folder begin with ``<run_dir>``. What is built stands under the name
    of its place: ``model`` for ``model._target_``. ``data.split_seed`` stays: it changes which
    images are tested.
    """
    run_dir = config.get("run_dir")
    found: dict[str, Any] = {}
    for key, value in _leaves(config, ()):
        if key[-1] == "seed" or key[0] == "sweep" or key in NO_SETTINGS:
            continue
        place = key[:-1] if key[-1] == "_target_" else key
        if isinstance(run_dir, str) and isinstance(value, str):
            inside = value == run_dir or value.startswith(f"{run_dir}/")
            value = f"<run_dir>{value[len(run_dir) :]}" if inside else value
        found[".".join(place)] = value
    return found


def _leaves(node: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def _rows(path: Path, *needed: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise MedvisionError(
            f"the run has no {path.name}", where=str(path.parent), hint="train it again"
        )
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise MedvisionError(f"there is no column {', '.join(missing)}", where=str(path))
        return list(reader)


def _number(path: Path, cell: str) -> float | None:
    try:
        return float(cell) if cell else None
    except (TypeError, ValueError) as error:
        raise MedvisionError(f"expected a number, got {cell!r}", where=str(path)) from error


MOST_KEYS = 3  # of a label
FIRST_ROOMS = ("model", "loss", "optimizer", "scheduler", "task", "data", "ckpt_path", "trainer")
"""Of the keys in which groups differ those that tell most about them, in this order."""

ABSENT = "absent"


Member = tuple[FinishedRun, ...]
"""One run, or the folds of one k-fold split that together test every image once."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs that differ in their seed only, and of protocol kfold in their fold.

    Attributes:
        label: The experiment, and the settings in which it differs from groups of the same one.
        runs: All of them, in the order of the command.
    """

    label: str
    runs: tuple[FinishedRun, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        """What stands for one seed each: single runs, or sets of folds.

        A fold joins the first set of its seed that lacks it; where no seed has more than one
        fold, all seeds make one set.
        """
        if any(run.fold is None for run in self.runs):
            return tuple((run,) for run in self.runs)
        folds = [run.fold for run in self.runs]
        if len(set(folds)) == len(folds):
            return (self.runs,)
        sets: list[list[FinishedRun]] = []
        for run in self.runs:
            for found in sets:
                if found[0].seed == run.seed and run.fold not in {other.fold for other in found}:
                    found.append(run)
                    break
            else:
                sets.append([run])
        return tuple(tuple(found) for found in sets)

    @property
    def seeds(self) -> list[int]:
        """Seed of each run."""
        return [run.seed for run in self.runs]

    @property
    def repeated_seeds(self) -> list[int]:
        """Seeds that more than one run has, or more than one set of folds."""
        seeds = Counter(member[0].seed for member in self.members)
        return [seed for seed, count in seeds.items() if count > 1]

    @property
    def num_seeds(self) -> int:
        """How many values a spread over seeds rests on; 1 where two share a seed."""
        return 1 if self.repeated_seeds else len(self.members)

    @property
    def size(self) -> str:
        """How many seeds stand behind a mean, in words."""
        seeds, runs = len(set(self.seeds)), len(self.runs)
        words = f"{seeds} seed{'s' * (seeds > 1)}"
        folds = {run.fold for run in self.runs}
        if None not in folds:
            return f"{len(folds)} fold{'s' * (len(folds) > 1)}, {words}"
        return words if seeds == runs else f"{runs} runs, {words}"

    @property
    def marks(self) -> str:
        """What a reader must know about the data before believing the scores."""
        return marks_of(run.dataset for run in self.runs)

    def values(self, metric: str) -> list[float | None]:
        """The metric of each run; None where it is undefined."""
        return [run.scores.get(metric) for run in self.runs]

    def mean_and_std(self, metric: str) -> tuple[float | None, float | None]:
        """Mean and sample standard deviation of the runs that define the metric.

        Of folds first the mean over each set: the deviation is one over seeds.

        Returns:
            None instead of the mean of no value. None instead of the deviation of fewer than two
            values, and where two runs share a seed: theirs is no spread over seeds.
        """
        of_sets = [[run.scores.get(metric) for run in member] for member in self.members]
        mean, std = mean_and_std(mean_and_std(values)[0] for values in of_sets)
        return mean, None if self.repeated_seeds else std


def plain_scores(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Every metric of a summary but the intervals, by name; None where it is undefined."""
    return {
        name: value
        for name, value in metrics.items()
        if not (name.endswith("_ci95") or isinstance(value, list))
    }


def marks_of(datasets: Iterable[Mapping[str, Any]]) -> str:
    """What a reader must know about the data before believing the scores."""
    data = list(datasets)
    synthetic = any(dataset.get("synthetic") for dataset in data)
    merged = any(dataset.get("protocol") == "merged" for dataset in data)
    return " (synthetic data)" * synthetic + " (merged protocol)" * merged


def mean_and_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1) of the values that are defined.

    Returns:
        None instead of the mean of no value and the deviation of fewer than two.
    """
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    return mean, statistics.stdev(known) if len(known) > 1 else None


def group_runs(runs: Sequence[FinishedRun]) -> list[Group]:
    """Group runs that differ in their seed or fold only, in the order of the command."""
    found: dict[str, list[FinishedRun]] = {}
    for run in runs:
        key = json.dumps(_settings(run), sort_keys=True, default=str)
        found.setdefault(key, []).append(run)
    labels = _labels([members[0] for members in found.values()])
    return [
        Group(label=label, runs=tuple(members))
        for label, members in zip(labels, found.values(), strict=True)
    ]


def _settings(run: FinishedRun) -> dict[str, Any]:
    """What makes its group: of a k-fold split without the fold."""
    hidden = set() if run.fold is None else {"data.fold"}
    return {key: value for key, value in run.settings.items() if key not in hidden}


def metrics_of(groups: Iterable[Group]) -> list[str]:
    """Names of what is averaged, the headline first."""
    return ordered_metrics(name for group in groups for run in group.runs for name in run.scores)


def ordered_metrics(found: Iterable[str]) -> list[str]:
    """Names, the headline first, each once; confusion counts only make sense singly."""
    names = dict.fromkeys(found)
    first = [f"{stage}/{name}" for name in names_at("headline") for stage in STAGES]
    rest = [name for name in names if name not in first and "/confusion/" not in name]
    return [*(name for name in first if name in names), *rest]


def differing_settings(runs: Sequence[FinishedRun]) -> dict[str, list[Any]]:
    """The settings in which runs differ, and what each run has, ``absent`` where it has none.

    A key that follows another one, such as ``model.image_size`` ``data.image_size``, is left out.
    Those that tell most come first, and those that only some of the runs have last.
    """
    settings = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found)
    table = {key: [found.get(key, ABSENT) for found in settings] for key in keys}
    differing = {key: values for key, values in table.items() if len(set(map(repr, values))) > 1}
    partial = {key for key in differing if any(key not in found for found in settings)}

    def order(key: str) -> tuple[bool, int]:
        room = key.partition(".")[0]
        return key in partial, FIRST_ROOMS.index(room) if room in FIRST_ROOMS else len(FIRST_ROOMS)

    # of keys with one name and the same values, the first in the config leads the others
    leading: dict[tuple[str, str], str] = {}
    for key, values in differing.items():
        leading.setdefault((key.rpartition(".")[2], repr(values)), key)
    return {key: differing[key] for key in sorted(leading.values(), key=order)}


def _labels(runs: Sequence[FinishedRun]) -> list[str]:
    """A label for the first run of every group; no two are the same."""
    labels: list[str] = []
    for run in runs:
        alike = [other for other in runs if other.experiment == run.experiment]
        found = differing_settings(alike)
        shown = [(key, run.settings.get(key, ABSENT)) for key in list(found)[:MOST_KEYS]]
        label = " ".join(
            [run.experiment, *(f"{key}={setting_in_words(value)}" for key, value in shown)]
        )
        if len(found) > MOST_KEYS:
            label += f" +{len(found) - MOST_KEYS}"
        labels.append(label)
    taken = Counter(labels)
    return [
        label if taken[label] == 1 else f"{label} #{labels[: place + 1].count(label)}"
        for place, label in enumerate(labels)
    ]
