"""Several runs of one command: what they scored together, as tables in files and on the screen."""

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.files import write_atomically
from medvision.types import STAGES

HEADLINE = ("accuracy", "auroc", "dice", "iou")
SHOWN = {
    "classification": ("train/accuracy", "val/accuracy", "test/accuracy", "test/auroc"),
    "segmentation": ("train/dice", "val/dice", "test/dice", "test/iou"),
}
PER_RUN = {"classification": "test/accuracy", "segmentation": "test/dice"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as the command asked for it and as its folder tells it.

    Attributes:
        name: Name of its folder; empty where it ended before it had one.
        overrides: What the command set for it, without experiment and seed.
        summary: What its ``summary.json`` holds; empty where there is none.
    """

    name: str
    experiment: str
    seed: int | str | None
    overrides: tuple[str, ...]
    summary: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.summary.get("status") == "finished"

    @property
    def scores(self) -> dict[str, float | None]:
        """Every metric but the intervals, by name; None where it is undefined."""
        metrics: dict[str, Any] = self.summary.get("metrics", {})
        return {
            name: value
            for name, value in metrics.items()
            if not (name.endswith("_ci95") or isinstance(value, list))
        }


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs that differ in their seed only.

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
        """``classification`` or ``segmentation``; None where no run got as far as saying so."""
        return next((run.summary["task"] for run in self.runs if run.summary), None)

    @property
    def marks(self) -> str:
        """What a reader must know about the data before believing the scores."""
        data = [run.summary["dataset"] for run in self.runs if run.summary]
        synthetic = any(dataset["synthetic"] for dataset in data)
        merged = any(dataset.get("protocol") == "merged" for dataset in data)
        return " (synthetic data)" * synthetic + " (merged protocol)" * merged

    def values(self, metric: str) -> list[float | None]:
        """The metric of each finished run; None where it is undefined."""
        return [run.scores.get(metric) for run in self.finished]

    def mean_and_std(self, metric: str) -> tuple[float | None, float | None]:
        """Mean and sample standard deviation (n - 1) of the finished runs that define the metric.

        Returns:
            None instead of the mean of no value and the deviation of fewer than two.
        """
        known = [value for value in self.values(metric) if value is not None]
        mean = statistics.fmean(known) if known else None
        return mean, statistics.stdev(known) if len(known) > 1 else None


def summarise(run_dirs: Sequence[Path | None], overrides: Sequence[Sequence[str]]) -> list[Group]:
    """Read the runs and group them by experiment and by every override but the seed.

    Args:
        run_dirs: Folder of each run; None, or a folder without ``summary.json``, where a run
            ended early: it counts as failed.
        overrides: What the command set for each run, as ``key=value``.

    Returns:
        A group for each combination, in the order of the command.

    Raises:
        ValueError: If there are not as many lists of overrides as runs.
    """
    return _group(_read(run_dirs, overrides))


def write_multirun(
    base: Path, run_dirs: Sequence[Path | None], overrides: Sequence[Sequence[str]]
) -> list[Group]:
    """Write ``multirun_summary.csv``, a row per group, and ``multirun_runs.csv``, a row per run.

    An undefined value is a blank cell, and ``-`` where the values of several runs share one.
    Numbers are written in full: reading them gives what ``summary.json`` holds.

    Args:
        base: Folder of the command.
        run_dirs: As in ``summarise``.
        overrides: As in ``summarise``.

    Returns:
        The groups, as ``summarise`` gives them.

    Raises:
        ValueError: If there are not as many lists of overrides as runs.
    """
    runs = _read(run_dirs, overrides)
    groups, metrics = _group(runs), _metrics_of(runs)
    _write_csv(base / "multirun_summary.csv", [_group_row(group, metrics) for group in groups])
    _write_csv(base / "multirun_runs.csv", [_run_row(run) for run in runs])
    return groups


def print_multirun(groups: Sequence[Group], *, console: Console | None = None) -> None:
    """Print mean and spread of each group, then what each of its runs scored on test.

    Scores are per cent for classification and lie in [0, 1] for segmentation; each task has its
    own table. Readable from 80 columns on.

    Args:
        groups: From ``summarise``.
        console: Where to; the screen unless given.
    """
    console = console or Console()
    known = next((group.task for group in groups if group.task), "classification")
    for task in SHOWN:
        # a group that never started has no scores, so it may stand in any table
        members = [group for group in groups if (group.task or known) == task]
        if members:
            console.print(_table(task, members))
            console.print()
            console.print(_table_of_runs(task, members))
            console.print()


def _read(run_dirs: Sequence[Path | None], overrides: Sequence[Sequence[str]]) -> list[Run]:
    if len(run_dirs) != len(overrides):
        raise ValueError(f"expected overrides of {len(run_dirs)} runs, got {len(overrides)}")
    return [_read_run(path, given) for path, given in zip(run_dirs, overrides, strict=True)]


def _read_run(path: Path | None, overrides: Sequence[str]) -> Run:
    given = {override: override.lstrip("+").partition("=")[::2] for override in overrides}
    values = dict(given.values())
    summary: dict[str, Any] = {}
    if path is not None and (path / "summary.json").exists():
        summary = json.loads((path / "summary.json").read_text())
    return Run(
        name="" if path is None else path.name,
        experiment=summary.get("experiment", values.get("experiment", "")),
        seed=summary.get("seed", values.get("seed")),
        overrides=tuple(o for o, (key, _) in given.items() if key not in ("experiment", "seed")),
        summary=summary,
    )


def _group(runs: Sequence[Run]) -> list[Group]:
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.experiment, *run.overrides), []).append(run)
    return [
        Group(
            label=" ".join([experiment, *(o for o in overrides if o not in shared)]),
            runs=tuple(members),
        )
        for (experiment, *overrides), members in groups.items()
    ]


def _metrics_of(runs: Sequence[Run]) -> list[str]:
    """Names of what is averaged, the headline first; confusion counts only make sense singly."""
    names = dict.fromkeys(name for run in runs if run.finished for name in run.scores)
    first = [f"{stage}/{name}" for name in HEADLINE for stage in STAGES]
    rest = [name for name in names if name not in first and "/confusion/" not in name]
    return [*(name for name in first if name in names), *rest]


def _group_row(group: Group, metrics: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "experiment": group.runs[0].experiment,
        "overrides": " ".join(group.runs[0].overrides),
        "runs": len(group.finished),
        "failed": group.num_failed,
        "seeds": " ".join(str(run.seed) for run in group.finished),
    }
    for name in metrics:
        row[f"{name}_mean"], row[f"{name}_std"] = group.mean_and_std(name)
        values = group.values(name)
        row[f"{name}_runs"] = " ".join("-" if value is None else repr(value) for value in values)
    return row


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "experiment": run.experiment,
        "overrides": " ".join(run.overrides),
        "seed": run.seed,
        "status": run.summary.get("status", "failed"),
        "best_epoch": run.summary.get("best_epoch"),
        "protocol": run.summary.get("dataset", {}).get("protocol"),
        **run.scores,
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _table(task: str, groups: Sequence[Group]) -> Table:
    unit = ", per cent" if task == "classification" else ""
    table = Table(
        title=f"{task}{unit}: mean ± standard deviation over the runs",
        box=box.MINIMAL,
        show_edge=False,
        padding=0,  # so that four scores with their spread leave 80 columns room for a name
    )
    table.add_column("experiment", overflow="fold")
    table.add_column("runs", justify="right")
    for name in SHOWN[task]:
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    for group in groups:
        scores = (_words(task, *group.mean_and_std(name)) for name in SHOWN[task])
        table.add_row(_label(group), str(len(group.finished)), *scores)
    return table


def _table_of_runs(task: str, groups: Sequence[Group]) -> Table:
    metric = PER_RUN[task]
    table = Table(box=box.MINIMAL, show_edge=False, padding=0)
    table.add_column("experiment", overflow="fold")
    table.add_column(f"each run's {metric.replace('/', ' ')}")
    for group in groups:
        values = (_words(task, value, None) for value in group.values(metric))
        table.add_row(Text(group.label), " ".join(values))
    return table


def _label(group: Group) -> Text:
    label = Text(group.label + group.marks)
    if group.num_failed:
        label.append(f"\n{group.num_failed} failed", style="bold red")
    return label


def _words(task: str, value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    scale, digits = (100, 2) if task == "classification" else (1, 4)
    words = f"{scale * value:.{digits}f}"
    return words if spread is None else f"{words} ± {scale * spread:.{digits}f}"
