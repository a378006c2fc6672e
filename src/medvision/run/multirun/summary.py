"""Several runs of one command: what they scored together, as tables in files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvision.comparison.runs import marks_of, mean_and_std, ordered_metrics, plain_scores
from medvision.files import write_table

REPEATED = ("seed", "data.fold")
"""What differs between runs that count as the same: they share a mean."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as the command asked for it and as its folder tells it.

    Attributes:
        path: Its folder; None where it ended before it had one.
        fold: What the command set ``data.fold`` to; None where it did not.
        overrides: What else the command set for it, without experiment and seed.
        summary: What its ``summary.json`` holds; empty where there is none.
    """

    path: Path | None
    experiment: str
    seed: int | str | None
    fold: str | None
    overrides: tuple[str, ...]
    summary: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.summary.get("status") == "finished"

    @property
    def scores(self) -> dict[str, float | None]:
        """Every metric but the intervals, by name; None where it is undefined."""
        return plain_scores(self.summary.get("metrics", {}))


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs that differ in their seed and fold only.

    Attributes:
        runs: All of them, in the order of the command.
        label: The experiment, and the overrides that not every run of the command shares.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def finished(self) -> list[Run]:
        """The runs that count."""
        return [run for run in self.runs if run.finished]

    @property
    def num_failed(self) -> int:
        """How many runs do not count."""
        return len(self.runs) - len(self.finished)

    @property
    def task(self) -> str | None:
        """Kind of the task; None where no run got as far as saying so."""
        return next((run.summary["task"] for run in self.runs if run.summary), None)

    @property
    def sealed(self) -> bool:
        """Whether hyper-parameters were being chosen, so that no run was tested."""
        return any(run.summary.get("sealed", False) for run in self.runs)

    @property
    def marks(self) -> str:
        """What a reader must know about the data before believing the scores."""
        data = [run.summary["dataset"] for run in self.runs if run.summary]
        return marks_of(data)

    def values(self, metric: str) -> list[float | None]:
        """The metric of each finished run; None where it is undefined."""
        return [run.scores.get(metric) for run in self.finished]

    def mean_and_std(self, metric: str) -> tuple[float | None, float | None]:
        """Mean and sample standard deviation (n - 1) of the finished runs that define the metric.

        Returns:
            None instead of the mean of no value and the deviation of fewer than two.
        """
        return mean_and_std(self.values(metric))


def summarise(
    run_dirs: Sequence[Path | None],
    overrides: Sequence[Sequence[str]],
    *,
    base: Path | None = None,
) -> list[Group]:
    """Read the runs and group them by experiment and by every override but seed and fold.

    Into ``base`` go ``multirun_summary.csv``, a row per group, and ``multirun_runs.csv``, a row per
    run. An undefined value is a blank cell, and ``-`` where the values of several runs share one.
    Numbers are written in full: reading them gives what ``summary.json`` holds.

    Args:
        run_dirs: Folder of each run; None, or a folder without ``summary.json``, where a run
            ended early: it counts as failed.
        overrides: What the command set for each run, as ``key=value``.
        base: Folder of the command; None writes nothing.

    Returns:
        A group for each combination, in the order of the command.

    Raises:
        ValueError: If there are not as many lists of overrides as runs.
    """
    if len(run_dirs) != len(overrides):
        raise ValueError(f"expected overrides of {len(run_dirs)} runs, got {len(overrides)}")
    runs = [_read_run(path, given) for path, given in zip(run_dirs, overrides, strict=True)]
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        members.setdefault((run.experiment, *run.overrides), []).append(run)
    groups = [
        Group(label=" ".join([name, *(o for o in own if o not in shared)]), runs=tuple(alike))
        for (name, *own), alike in members.items()
    ]
    if base is not None:
        metrics = metrics_of(runs)
        write_table(base / "multirun_summary.csv", [_group_row(group, metrics) for group in groups])
        write_table(base / "multirun_runs.csv", [_run_row(run) for run in runs])
    return groups


def _read_run(path: Path | None, overrides: Sequence[str]) -> Run:
    given = {override: override.lstrip("+").partition("=")[::2] for override in overrides}
    values = dict(given.values())
    summary: dict[str, Any] = {}
    if path is not None and (path / "summary.json").exists():
        summary = json.loads((path / "summary.json").read_text())
    return Run(
        path=path,
        experiment=summary.get("experiment", values.get("experiment", "")),
        seed=summary.get("seed", values.get("seed")),
        fold=values.get("data.fold"),
        overrides=tuple(o for o, (key, _) in given.items() if key not in ("experiment", *REPEATED)),
        summary=summary,
    )


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Names of what is averaged, the headline first; confusion counts only make sense singly."""
    return ordered_metrics(name for run in runs if run.finished for name in run.scores)


def _group_row(group: Group, metrics: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "experiment": group.runs[0].experiment,
        "overrides": " ".join(group.runs[0].overrides),
        "runs": len(group.finished),
        "failed": group.num_failed,
        "seeds": " ".join(str(run.seed) for run in group.finished),
        **_folds(group),
    }
    for name in metrics:
        row[f"{name}_mean"], row[f"{name}_std"] = group.mean_and_std(name)
        values = group.values(name)
        row[f"{name}_runs"] = " ".join("-" if value is None else repr(value) for value in values)
    return row


def _folds(group: Group) -> dict[str, str]:
    """The folds of the finished runs, where the command set them."""
    if all(run.fold is None for run in group.runs):
        return {}
    return {"folds": " ".join(run.fold or "-" for run in group.finished)}


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "run": "" if run.path is None else run.path.name,
        "experiment": run.experiment,
        "overrides": " ".join(run.overrides),
        "seed": run.seed,
        **({} if run.fold is None else {"fold": run.fold}),
        "status": run.summary.get("status", "failed"),
        "best_epoch": run.summary.get("best_epoch"),
        "protocol": run.summary.get("dataset", {}).get("protocol"),
        **run.scores,
    }
