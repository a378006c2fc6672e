"""Several finished runs side by side: means and spread over seeds, as files and as a page.

Nothing heavy is imported here: what draws loads when it is called.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.evaluation.comparable import require_comparable
from medvision.evaluation.comparison_content import (
    content_of,
    table_of_groups,
    table_of_pairs,
)
from medvision.evaluation.fairness import doubts
from medvision.evaluation.finished_runs import FinishedRun, Points, read_run
from medvision.evaluation.run_groups import Group, group_runs
from medvision.evaluation.verdicts import compare_pairs
from medvision.files import write_atomically, write_table
from medvision.reports.verdict_words import p_in_words, probability_in_words
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
        pairs: Who is better, for every pair of groups, from ``compare_pairs``.
        notes: Where the comparison may not be fair, a sentence each.
        out: Folder of ``comparison.json``, ``comparison.csv``, ``comparison_pairs.csv`` and
            ``comparison.html``.
    """

    groups: tuple[Group, ...]
    pairs: tuple[Mapping[str, Any], ...]
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
        return content_of(self.groups, self.pairs, self.notes)


def compare(runs: Sequence[Path], *, out: Path) -> Comparison:
    """Read finished runs, group them over their seeds and write what they scored.

    Writes ``comparison.json``, ``comparison.csv`` (a row per group), ``comparison_pairs.csv`` (a
    row per pair of groups and score; without a second group there is none) and
    ``comparison.html``, a page of one file, into ``out``.

    Args:
        runs: Run folders, at least two; differences are those to the group of the first.
        out: Made where it does not exist.

    Raises:
        MedvisionError: If a folder is not that of a finished run, a run is named twice, there are
            fewer than two, their tasks, test images, protocol or definitions of scores differ,
            or ``out`` cannot be written.
    """
    groups = group_runs(_read(runs))
    require_comparable(groups)
    comparison = Comparison(
        groups=tuple(groups),
        pairs=tuple(compare_pairs(groups)),
        notes=tuple(doubts(groups)),
        out=out,
    )
    content, page = comparison.to_dict(), _page(comparison)
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
        write_atomically(out / "comparison.json", text + "\n")
        write_atomically(out / "comparison.csv", table_of_groups(groups))
        if comparison.pairs:
            write_table(out / "comparison_pairs.csv", table_of_pairs(groups, comparison.pairs))
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
    """Print means and spread of each group, each run with its interval, and who is better.

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
    to_first = [pair for pair in comparison.pairs if pair["a"] == 1]
    if any(pair["metrics"] for pair in to_first):
        console.print(_table_of_pairs(to_first))
        console.print()
    for pair in to_first:
        console.print(pair["sentence"], highlight=False, markup=False)
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


def _table_of_pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Those with the first group; their headline in full."""
    several = len(pairs) > 1
    exchanges = next(iter(pairs[0]["metrics"].values()))["num_permutations"]
    table = Table(
        title="test: difference to group 1, same images",
        caption=f"p of {exchanges:,} exchanges",
        box=box.MINIMAL,
        show_edge=False,
        padding=0,
    )
    table.add_column("", justify="right")
    table.add_column("score", overflow="fold")
    for name in ("difference", "95 % interval", "p", *(["Holm p"] * several)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("probability\nof better", justify="right", no_wrap=True)
    for pair in pairs:
        for name, found in pair["metrics"].items():
            ends = found["ci95"]
            cells = [
                f"{found['difference']:+.3f}",
                "-" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}",
                p_in_words(found["p"]),
                *([p_in_words(found["p_holm"])] * several),
                probability_in_words(found["probability_b_better"]),
            ]
            table.add_row(str(pair["b"]), name.replace("_", " "), *cells)
    return table


def _words(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"
