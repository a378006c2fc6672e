"""Runs that differ in their seed or fold only, and what a group of them scored together."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from medvision.evaluation.finished_runs import FinishedRun
from medvision.reports.comparison_tables import setting_in_words
from medvision.types import STAGES

MOST_KEYS = 3  # of a label
HEADLINE = ("accuracy", "auroc", "dice", "iou")
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
        synthetic = any(run.dataset.get("synthetic") for run in self.runs)
        merged = any(run.dataset.get("protocol") == "merged" for run in self.runs)
        return " (synthetic data)" * synthetic + " (merged protocol)" * merged

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
    """Names of what is averaged, the headline first; confusion counts only make sense singly."""
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.scores)
    first = [f"{stage}/{name}" for name in HEADLINE for stage in STAGES]
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
