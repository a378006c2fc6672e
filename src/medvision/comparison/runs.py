"""Finished runs read from their folders, and groups of runs that differ in seed or fold only.

Only text files are read; torch is not needed.
"""

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
from medvision.files import check_finished, read_rows, way_to_run
from medvision.reports.page import setting_in_words
from medvision.reports.run_files import RunFiles
from medvision.scores import names_at
from medvision.task_definition import task_of
from medvision.types import STAGES

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""False and true positive rates, (T,) each, from the strictest threshold down."""

EpochRow = Mapping[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class ComparedRun(RunFiles):
    """A finished run to compare, read from its folder."""

    @property
    def name(self) -> str:
        """Folder name and parent: the experiment, or the command, and the time."""
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
        """Settings from ``settings_of``: equal for runs that differ in their seed only."""
        return settings_of(self.config)

    @property
    def protocol(self) -> str | None:
        """Split protocol; None for runs of older versions, which do not record it."""
        found = self.dataset.get("protocol", self.settings.get("data.protocol"))
        return None if found is None else str(found)

    @property
    def fold(self) -> int | None:
        """Index of the tested part of a k-fold split; None for other protocols."""
        fold = self.settings.get("data.fold")
        return int(fold) if self.protocol == "kfold" and fold is not None else None

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Every metric but the intervals, by name; None where undefined."""
        return plain_scores(self.metrics)

    def interval(self, metric: str) -> list[float] | None:
        """Return the 95 % interval of a metric over test images; None if there is none."""
        ends: list[float] | None = self.metrics.get(f"{metric}_ci95")
        return ends

    @cached_property
    def history(self) -> list[EpochRow]:
        """Rows of metrics.csv, one per epoch; None where a value is undefined."""
        path = self.folder / "metrics.csv"
        numbers = [
            {name: _number(path, cell) for name, cell in row.items()}
            for row in _rows(path, "epoch")
        ]
        return [{**row, "epoch": int(row["epoch"] or 0)} for row in numbers]

    @cached_property
    def classes(self) -> list[str]:
        """Classes with predicted probabilities; empty if the run predicts masks."""
        prefix = "probability/"
        names = self.predictions[0] if self.predictions else ()
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def roc(self) -> Points | None:
        """ROC of the test pixels, or of the test images; for several classes their macro mean.

        Returns:
            None if the run has no ROC or it is undefined (no positives or no negatives).
        """
        per_pixel = task_of(self.task).per_pixel
        curves = self._pixel_roc() if per_pixel else self._image_roc()
        known = [curve for curve in curves if np.isfinite(curve).all()]
        if len(known) < 2:
            return known[0] if known else None
        from medvision.reports.plots.classification import macro_mean  # loads matplotlib

        return macro_mean(known)

    def _pixel_roc(self) -> Iterator[Points]:
        path = self.folder / "roc_test.csv"
        if path.is_file():  # missing in runs of older versions
            rows = _rows(path, "false_positive_rate", "true_positive_rate")
            yield (
                np.array([_number(path, row["false_positive_rate"]) for row in rows], float),
                np.array([_number(path, row["true_positive_rate"]) for row in rows], float),
            )

    def _image_roc(self) -> Iterator[Points]:
        from medvision.metrics.ranking import class_ranks, roc_points

        path, rows = self.folder / "predictions_test.csv", self.predictions
        columns = [
            [_number(path, row[f"probability/{name}"]) for row in rows] for name in self.classes
        ]
        ranks = class_ranks(np.array(columns, float).T)
        for k in (1,) if len(self.classes) == 2 else range(len(self.classes)):
            positive = np.array([row["target"] == self.classes[k] for row in rows])
            yield roc_points(ranks[:, k], positive)[:2]


def read_run(path: Path) -> ComparedRun:
    """Read the summary and the config of a finished run.

    Raises:
        MedvisionError: If the folder is not a run folder, or the run has not finished.
    """
    if not (path / "summary.json").is_file():
        raise _no_run(path, "summary.json")
    run = ComparedRun.read(path)
    if "evaluated" in run.summary:
        raise MedvisionError(
            "expected a run, got an evaluation",
            where=str(path),
            hint="name the run that was evaluated",
        )
    if not (path / "config.yaml").is_file():
        raise _no_run(path, "config.yaml")
    missing = {"experiment", "seed", "status", "task", "metrics"} - set(run.summary)
    if missing:
        raise MedvisionError(
            f"summary.json has no {', '.join(sorted(missing))}",
            where=str(path),
            hint="name a folder that training wrote",
        )
    check_finished(path, run.summary)
    return run


def _no_run(path: Path, name: str) -> MedvisionError:
    return MedvisionError(
        f"not a run folder: it has no {name}",
        where=str(path),
        hint=way_to_run(path),
    )


NO_SETTINGS = (("run_dir",), ("resume",), ("trust",), ("checkpoint", "every_minutes"))
"""Config keys that do not affect training."""


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config to dotted keys, without values that differ between runs of one setting.

    Leaves out every ``seed`` and the keys that state where, when and for which search a run was
    made; paths below the run folder begin with ``<run_dir>``. A ``_target_`` is stored under the
    key of its node: ``model`` for ``model._target_``. ``data.split_seed`` is kept because it
    changes the test images.
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
    rows = read_rows(path)
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing:
        raise MedvisionError(f"missing column {', '.join(missing)}", where=str(path))
    return rows


def _number(path: Path, cell: str) -> float | None:
    try:
        return float(cell) if cell else None
    except (TypeError, ValueError) as error:
        raise MedvisionError(f"expected a number, got {cell!r}", where=str(path)) from error


MOST_KEYS = 3  # in a label
FIRST_GROUPS = ("model", "loss", "optimizer", "scheduler", "task", "data", "ckpt_path", "trainer")
"""Most informative config groups to tell runs apart, in this order."""

ABSENT = "absent"


Member = tuple[ComparedRun, ...]
"""One run, or the folds of one k-fold split, which together test every image once."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in their seed only, and for protocol kfold also in their fold.

    Attributes:
        label: Experiment, and the settings that differ from other groups of the same experiment.
        runs: All runs of the group, in the order of the command.
    """

    label: str
    runs: tuple[ComparedRun, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        """Entries that count as one seed each: single runs, or sets of folds.

        A fold joins the first set of its seed that lacks it. If no seed has more than one fold, all
        seeds form one set.
        """
        if any(run.fold is None for run in self.runs):
            return tuple((run,) for run in self.runs)
        folds = [run.fold for run in self.runs]
        if len(set(folds)) == len(folds):
            return (self.runs,)
        sets: list[list[ComparedRun]] = []
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
        """Seeds shared by several runs, or by several sets of folds."""
        seeds = Counter(member[0].seed for member in self.members)
        return [seed for seed, count in seeds.items() if count > 1]

    @property
    def num_seeds(self) -> int:
        """Number of values behind a spread over seeds; 1 if two of them share a seed."""
        return 1 if self.repeated_seeds else len(self.members)

    @property
    def size(self) -> str:
        """Number of seeds behind a mean, in words."""
        seeds, runs = len(set(self.seeds)), len(self.runs)
        words = f"{seeds} seed{'s' * (seeds > 1)}"
        folds = {run.fold for run in self.runs}
        if None not in folds:
            return f"{len(folds)} fold{'s' * (len(folds) > 1)}, {words}"
        return words if seeds == runs else f"{runs} runs, {words}"

    @property
    def marks(self) -> str:
        """Warnings about the data that affect how far the scores can be trusted."""
        return marks_of(run.dataset for run in self.runs)

    def values(self, metric: str) -> list[float | None]:
        """Return the metric of each run; None where undefined."""
        return [run.scores.get(metric) for run in self.runs]

    def mean_and_std(self, metric: str) -> tuple[float | None, float | None]:
        """Compute mean and sample standard deviation of the runs that define the metric.

        Folds are first averaged over each set, so that the deviation is over seeds.

        Returns:
            None as the mean of no value. None as the deviation of fewer than two values, and if two
            runs share a seed, because their spread is not one over seeds.
        """
        of_sets = [[run.scores.get(metric) for run in member] for member in self.members]
        mean, std = mean_and_std(mean_and_std(values)[0] for values in of_sets)
        return mean, None if self.repeated_seeds else std


def plain_scores(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return every metric of a summary but the intervals, by name; None where undefined."""
    return {
        name: value
        for name, value in metrics.items()
        if not (name.endswith("_ci95") or isinstance(value, list))
    }


def marks_of(datasets: Iterable[Mapping[str, Any]]) -> str:
    """List warnings about the data that affect how far the scores can be trusted."""
    data = list(datasets)
    synthetic = any(dataset.get("synthetic") for dataset in data)
    merged = any(dataset.get("protocol") == "merged" for dataset in data)
    return " (synthetic data)" * synthetic + " (merged protocol)" * merged


def mean_and_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Compute mean and sample standard deviation (n - 1) of the defined values.

    Returns:
        None as the mean of no value and as the deviation of fewer than two.
    """
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    return mean, statistics.stdev(known) if len(known) > 1 else None


def group_runs(runs: Sequence[ComparedRun]) -> list[Group]:
    """Group runs that differ in their seed or fold only, in the order of the command."""
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        key = json.dumps(_settings(run), sort_keys=True, default=str)
        found.setdefault(key, []).append(run)
    labels = _labels([members[0] for members in found.values()])
    return [
        Group(label=label, runs=tuple(members))
        for label, members in zip(labels, found.values(), strict=True)
    ]


def _settings(run: ComparedRun) -> dict[str, Any]:
    """Return the settings that define a run's group; for a k-fold split without the fold."""
    hidden = set() if run.fold is None else {"data.fold"}
    return {key: value for key, value in run.settings.items() if key not in hidden}


def metrics_of(groups: Iterable[Group]) -> list[str]:
    """List the metrics to average, the headline first."""
    return ordered_metrics(name for group in groups for run in group.runs for name in run.scores)


def ordered_metrics(found: Iterable[str]) -> list[str]:
    """List metric names once each, the headline first, without confusion counts."""
    names = dict.fromkeys(found)
    first = [f"{stage}/{name}" for name in names_at("headline") for stage in STAGES]
    rest = [name for name in names if name not in first and "/confusion/" not in name]
    return [*(name for name in first if name in names), *rest]


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """List the settings in which runs differ, with the value of each run or ``absent``.

    A key that only follows another, such as ``model.image_size`` after ``data.image_size``, is left
    out. The most informative keys come first, and keys that only some runs have come last.
    """
    settings = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found)
    table = {key: [found.get(key, ABSENT) for found in settings] for key in keys}
    differing = {key: values for key, values in table.items() if len(set(map(repr, values))) > 1}
    partial = {key for key in differing if any(key not in found for found in settings)}

    def order(key: str) -> tuple[bool, int]:
        group = key.partition(".")[0]
        return key in partial, FIRST_GROUPS.index(group) if group in FIRST_GROUPS else len(
            FIRST_GROUPS
        )

    # of keys with the same name and values, only the first in the config is kept
    leading: dict[tuple[str, str], str] = {}
    for key, values in differing.items():
        leading.setdefault((key.rpartition(".")[2], repr(values)), key)
    return {key: differing[key] for key in sorted(leading.values(), key=order)}


def _labels(runs: Sequence[ComparedRun]) -> list[str]:
    """Create a unique label for the first run of every group."""
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
