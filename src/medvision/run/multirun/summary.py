"""Summary tables of the runs of one command, as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvision.comparison.runs import marks_of, mean_and_std, ordered_metrics, plain_scores
from medvision.files import read_plain, run_status, write_table

REPEATED = ("seed", "data.fold")
"""Overrides that may differ between runs averaged together."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, from the command and from its folder.

    Attributes:
        path: Run folder; None if the run ended before it was created.
        fold: Value that the command set for ``data.fold``; None if not set.
        overrides: Other overrides of the command, without experiment and seed.
        summary: Content of ``summary.json``; empty if there is none.
    """

    path: Path | None
    experiment: str
    seed: int | str | None
    fold: str | None
    overrides: tuple[str, ...]
    summary: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """True if the run finished."""
        return self.summary.get("status") == "finished"

    @property
    def scores(self) -> dict[str, float | None]:
        """All metrics except the intervals, by name; None if undefined."""
        return plain_scores(self.summary.get("metrics", {}))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ only in seed and fold.

    Attributes:
        runs: All of them, in the order of the command.
        label: Experiment, and the overrides that not every run of the command shares.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def finished(self) -> list[Run]:
        """Finished runs."""
        return [run for run in self.runs if run.finished]

    @property
    def num_failed(self) -> int:
        """Number of runs that did not finish."""
        return len(self.runs) - len(self.finished)

    @property
    def task(self) -> str | None:
        """Kind of the task; None if no run recorded it."""
        return next((run.summary["task"] for run in self.runs if run.summary), None)

    @property
    def sealed(self) -> bool:
        """True if hyper-parameters were being chosen, so that no run was tested."""
        return any(run.summary.get("sealed", False) for run in self.runs)

    @property
    def marks(self) -> str:
        """Limitations of the data that affect the scores."""
        data = [run.summary["dataset"] for run in self.runs if run.summary]
        return marks_of(data)

    def values(self, metric: str) -> list[float | None]:
        """Metric of each finished run; None if undefined."""
        return [run.scores.get(metric) for run in self.finished]

    def mean_and_std(self, metric: str) -> tuple[float | None, float | None]:
        """Mean and sample standard deviation (n - 1) of the finished runs that define the metric.

        Returns:
            None for the mean of no values and for the deviation of fewer than two.
        """
        return mean_and_std(self.values(metric))


def summarise(
    run_dirs: Sequence[Path | None],
    overrides: Sequence[Sequence[str]],
    *,
    base: Path | None = None,
) -> list[Group]:
    """Read the runs and group them by experiment and by every override except seed and fold.

    Writes ``multirun_summary.csv``, a row per group, and ``multirun_runs.csv``, a row per run, into
    ``base``. An undefined value is a blank cell, or ``-`` in a cell with the values of several
    runs. Numbers are written in full precision, equal to those of ``summary.json``.

    Args:
        run_dirs: Folder of each run; None, or a folder without ``summary.json``, counts as failed.
        overrides: Overrides of the command for each run, as ``key=value``.
        base: Folder of the command; None writes nothing.

    Returns:
        A group per combination, in the order of the command.

    Raises:
        ValueError: If the numbers of override lists and runs differ.
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
        summary = read_plain(path / "summary.json")
        if "status" in summary:
            summary["status"] = run_status(path, summary)
    return Run(
        path=path,
        experiment=summary.get("experiment", values.get("experiment", "")),
        seed=summary.get("seed", values.get("seed")),
        fold=values.get("data.fold"),
        overrides=tuple(o for o, (key, _) in given.items() if key not in ("experiment", *REPEATED)),
        summary=summary,
    )


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Names of the metrics to average, headline first; confusion counts are left out."""
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
    """Folds of the finished runs, if the command set them."""
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
