"""Several finished runs side by side: means and spread over seeds, as files and as a page.

Nothing heavy is imported here: what draws loads when it is called.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.evaluation.fairness import doubts
from medvision.evaluation.finished_runs import FinishedRun, Points, read_run
from medvision.evaluation.run_groups import (
    Group,
    differing_settings,
    group_runs,
    metrics_of,
)
from medvision.files import write_atomically
from medvision.types import MedvisionError

SHOWN = {
    "classification": ("test/accuracy", "test/balanced_accuracy", "test/auroc"),
    "segmentation": ("test/dice", "test/iou", "test/auroc"),
}
"""What the table on the screen has; the first of them also for each run."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was compared.

    Attributes:
        groups: Runs that differ in their seed only, in the order of the command; differences are
            those to the first.
        notes: Where the comparison may not be fair, a sentence each.
        out: Folder that holds ``comparison.json``, ``comparison.csv`` and ``comparison.html``.
    """

    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    out: Path

    @property
    def task(self) -> str:
        """``classification`` or ``segmentation``."""
        return self.groups[0].runs[0].task

    @property
    def runs(self) -> list[FinishedRun]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]

    def to_dict(self) -> dict[str, Any]:
        """What ``comparison.json`` holds: plain values, None where something is undefined."""
        names = metrics_of(self.groups)
        first = self.groups[0]
        return {
            "task": self.task,
            "groups": [
                {
                    "label": group.label,
                    "experiment": group.runs[0].experiment,
                    "marks": group.marks.strip(),
                    "size": group.size,
                    "num_runs": len(group.runs),
                    "seeds": group.seeds,
                    "runs": [_run(run) for run in group.runs],
                    "metrics": {name: _metric(group, first, name) for name in names},
                }
                for group in self.groups
            ],
            "differing_settings": differing_settings([group.runs[0] for group in self.groups]),
            "notes": list(self.notes),
        }


def compare(runs: Sequence[Path], *, out: Path) -> Comparison:
    """Read finished runs, group them over their seeds and write what they scored.

    Writes ``comparison.json``, ``comparison.csv`` (a row per group) and ``comparison.html``, a
    page of one file, into ``out``.

    Args:
        runs: Run folders, at least two; differences are those to the group of the first.
        out: Made where it does not exist.

    Raises:
        MedvisionError: If a folder is not that of a finished run, a run is named twice, there are
            fewer than two, their tasks differ, or ``out`` cannot be written.
    """
    groups = group_runs(_read(runs))
    comparison = Comparison(groups=tuple(groups), notes=tuple(doubts(groups)), out=out)
    content, page = comparison.to_dict(), _page(comparison)
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
        write_atomically(out / "comparison.json", text + "\n")
        write_atomically(out / "comparison.csv", _csv(groups))
        write_atomically(out / "comparison.html", page)
    except OSError as error:
        raise MedvisionError(
            f"cannot write the comparison: {error.strerror}",
            where=str(out),
            hint="name a folder that you may write to with --out",
            exit_code=3,
        ) from error
    return comparison


def print_comparison(comparison: Comparison, *, console: Console | None = None) -> None:
    """Print means and spread of each group, each run with its interval, and the notes.

    Readable from 80 columns on.

    Args:
        comparison: From ``compare``.
        console: Where to; the screen unless given.
    """
    console = console or Console()
    console.print(_table(comparison))
    console.print()
    console.print(_table_of_runs(comparison))
    console.print()
    for note in comparison.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    page = comparison.out / "comparison.html"
    console.print(str(page), highlight=False, soft_wrap=True, markup=False)


def _read(paths: Sequence[Path]) -> list[FinishedRun]:
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise MedvisionError(
                "the same run is named twice", where=str(path), hint="name each run once"
            )
        seen[path.resolve()] = path
    runs = [read_run(path) for path in paths]
    if len(runs) < 2:
        raise MedvisionError(
            f"expected at least two runs, got {len(runs)}",
            where="RUN",
            hint="name the folders of two or more runs",
        )
    tasks = {run.task: run for run in reversed(runs)}
    if len(tasks) > 1:
        words = ", ".join(f"{task} in {run.path}" for task, run in reversed(tasks.items()))
        raise MedvisionError(
            f"runs of different tasks cannot be compared: {words}",
            where="RUN",
            hint="compare runs of one task",
        )
    return runs


def _run(run: FinishedRun) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "name": run.name,
        "seed": run.seed,
        "model": run.summary.get("model", {}).get("name"),
        "num_parameters": run.summary.get("model", {}).get("num_parameters"),
        "best_epoch": run.summary.get("best_epoch"),
        "epochs": run.summary.get("epochs"),
        "device": run.summary.get("device"),
        "precision": run.summary.get("precision"),
        "warnings": list(run.summary.get("warnings", [])),
    }


def _metric(group: Group, first: Group, name: str) -> dict[str, Any]:
    mean, std = group.mean_and_std(name)
    values = group.values(name)
    before = None if group is first else first.mean_and_std(name)[0]
    return {
        "mean": mean,
        "std": std,
        "num_values": sum(value is not None for value in values),
        "difference_to_first": None if mean is None or before is None else mean - before,
        "values": values,
        "ci95": [run.interval(name) for run in group.runs],
    }


def _csv(groups: Sequence[Group]) -> str:
    """A row per group; an undefined value is a blank cell, and ``-`` among those of the runs."""
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "label": group.label,
            "experiment": group.runs[0].experiment,
            "runs": len(group.runs),
            "seeds": " ".join(map(str, group.seeds)),
        }
        for name in metrics_of(groups):
            row[f"{name}_mean"], row[f"{name}_std"] = group.mean_and_std(name)
            values = group.values(name)
            row[f"{name}_runs"] = " ".join("-" if v is None else repr(v) for v in values)
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _page(comparison: Comparison) -> str:
    from medvision.reports.comparison import comparison_page  # draws: loads matplotlib and jinja2

    roc: list[list[Points | None]] = [
        [run.roc() for run in group.runs] for group in comparison.groups
    ]
    histories = [[run.history for run in group.runs] for group in comparison.groups]
    return comparison_page(comparison.to_dict(), histories=histories, roc=roc)


def _table(comparison: Comparison) -> Table:
    table = Table(
        title="test: mean ± standard deviation over seeds",
        box=box.MINIMAL,
        show_edge=False,
        padding=0,  # so that three scores with their spread leave 80 columns room for a name
    )
    table.add_column("", justify="right")
    table.add_column("group", overflow="fold")
    table.add_column("seeds", justify="right")
    for name in SHOWN[comparison.task]:
        table.add_column(name.partition("/")[2].replace("_", "\n"), justify="right", no_wrap=True)
    for number, group in enumerate(comparison.groups, start=1):
        scores = (_words(*group.mean_and_std(name)) for name in SHOWN[comparison.task])
        size = str(len(set(group.seeds)))
        table.add_row(str(number), Text(group.label + group.marks), size, *scores)
    return table


def _table_of_runs(comparison: Comparison) -> Table:
    metric = SHOWN[comparison.task][0]
    table = Table(box=box.MINIMAL, show_edge=False, padding=0)
    table.add_column("", justify="right")
    table.add_column("run", overflow="fold")
    table.add_column("seed", justify="right")
    table.add_column(metric.replace("/", " "), justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for number, group in enumerate(comparison.groups, start=1):
        for run in group.runs:
            ends = run.interval(metric)
            between = "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            score = _words(run.scores.get(metric), None)
            table.add_row(str(number), Text(run.name), str(run.seed), score, between)
    return table


def _words(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"
