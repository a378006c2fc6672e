"""Compare finished runs by mean and spread over seeds, and write the results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.comparison.caveats import doubts, require_comparable
from medvision.comparison.runs import (
    ComparedRun,
    Group,
    Points,
    differing_settings,
    group_runs,
    metrics_of,
    read_run,
)
from medvision.comparison.verdicts import compare_pairs
from medvision.console import cell, in_one_line, screen
from medvision.errors import MedvisionError
from medvision.files import check_writable, file_errors, write_atomically, write_table
from medvision.reports.verdicts import p_in_words, probability_in_words
from medvision.scores import headline_of, names_at


def table_of_pairs(
    groups: Sequence[Group], pairs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Build the rows of ``comparison_pairs.csv``, one per pair and score."""
    rows = []
    for pair in pairs:
        for name, found in pair["metrics"].items():
            seeds = found["seeds"]
            low, high = found["ci95"] or (None, None)
            seeds_low, seeds_high = seeds["ci95"] or (None, None)
            rows.append(
                {
                    "group_a": groups[pair["a"] - 1].label,
                    "group_b": groups[pair["b"] - 1].label,
                    "metric": f"test/{name}",
                    **{key: found[key] for key in ("a", "b", "difference")},
                    "ci95_low": low,
                    "ci95_high": high,
                    **{key: found[key] for key in ("p", "p_holm", "p_holm_all")},
                    "probability_b_better": found["probability_b_better"],
                    "images": found["num_images"],
                    "units": found["num_units"],
                    "seeds_a": pair["num_seeds"][0],
                    "seeds_b": pair["num_seeds"][1],
                    "seeds_std_a": seeds["std_a"],
                    "seeds_std_b": seeds["std_b"],
                    "seeds_ci95_low": seeds_low,
                    "seeds_ci95_high": seeds_high,
                    "verdict": pair["verdict"] if name == pair["headline"] else None,
                }
            )
    return rows


def _run(run: ComparedRun) -> dict[str, Any]:
    model = run.summary.get("model", {})
    return {
        "path": str(run.folder),
        "name": run.name,
        "seed": run.seed,
        "model": model.get("name"),
        "num_parameters": model.get("num_parameters"),
        **{key: run.summary.get(key) for key in ("best_epoch", "epochs", "device", "precision")},
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


def table_of_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Build the rows of ``comparison.csv``, one per group; an undefined value of a run is ``-``."""
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
    return rows


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        groups: Groups of runs that differ in their seed only, in the order of the command;
            differences are relative to the first.
        pairs: Verdict for every pair of groups, from ``compare_pairs``.
        notes: Sentences on aspects that may make the comparison unfair.
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
    def runs(self) -> list[ComparedRun]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]

    def to_dict(self) -> dict[str, Any]:
        """Build the content of ``comparison.json``: plain values, None where undefined."""
        names = metrics_of(self.groups)
        return {
            "task": self.task,
            "pairs": list(self.pairs),
            "groups": [
                {
                    "label": group.label,
                    "experiment": group.runs[0].experiment,
                    "marks": group.marks.strip(),
                    "size": group.size,
                    "num_runs": len(group.runs),
                    "seeds": group.seeds,
                    "runs": [_run(run) for run in group.runs],
                    "metrics": {name: _metric(group, self.groups[0], name) for name in names},
                }
                for group in self.groups
            ],
            "differing_settings": differing_settings([group.runs[0] for group in self.groups]),
            "notes": list(self.notes),
        }


def compare(runs: Sequence[Path], *, out: Path) -> Comparison:
    """Read finished runs, group them over their seeds and write a comparison of their scores.

    Writes ``comparison.json``, ``comparison.csv`` (a row per group), ``comparison_pairs.csv`` (a
    row per pair of groups and score; not written for a single group) and ``comparison.html``, a
    self-contained page, into ``out``.

    Args:
        runs: At least two run folders; differences are relative to the group of the first.
        out: Output folder, created if missing.

    Raises:
        MedvisionError: If a folder is not that of a finished run, a run is given twice, there are
            fewer than two, their tasks, test images, protocol or definitions of scores differ,
            or ``out`` cannot be written.
    """
    check_writable(out)
    groups = group_runs(_read(runs))
    require_comparable(groups)
    comparison = Comparison(
        groups=tuple(groups),
        pairs=tuple(compare_pairs(groups)),
        notes=tuple(doubts(groups)),
        out=out,
    )
    content, page = comparison.to_dict(), _page(comparison)
    with file_errors("cannot write the comparison", out, hint="name a writable folder with --out"):
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
        write_atomically(out / "comparison.json", text + "\n")
        write_table(out / "comparison.csv", table_of_groups(groups))
        if comparison.pairs:
            write_table(out / "comparison_pairs.csv", table_of_pairs(groups, comparison.pairs))
        write_atomically(out / "comparison.html", page)
    return comparison


def print_comparison(comparison: Comparison, *, console: Console | None = None) -> None:
    """Print mean and spread of each group, each run with its interval, and the verdicts.

    Designed for 80 columns and more.

    Args:
        comparison: Result of ``compare``.
        console: Console to print to; the screen if None.
    """
    console = console or screen()
    console.print(_table(comparison))
    console.print()
    console.print(_table_of_runs(comparison))
    console.print()
    to_first = [pair for pair in comparison.pairs if pair["a"] == 1]
    if any(pair["metrics"] for pair in to_first):
        console.print(_table_of_pairs(to_first))
        console.print()
    for pair in to_first:
        console.print(in_one_line(pair["sentence"]), highlight=False, markup=False)
        console.print()
    for note in comparison.notes:
        console.print(in_one_line(f"note: {note}"), highlight=False, markup=False)
    page = comparison.out / "comparison.html"
    console.print(str(page), highlight=False, soft_wrap=True, markup=False)


def _read(paths: Sequence[Path]) -> list[ComparedRun]:
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
        words = ", ".join(f"{task} in {run.folder}" for task, run in reversed(tasks.items()))
        raise MedvisionError(
            f"runs of different tasks cannot be compared: {words}",
            where="RUN",
            hint="compare runs of one task",
        )
    return runs


def _page(comparison: Comparison) -> str:
    from medvision.reports.comparison import comparison_page  # loads matplotlib and jinja2

    roc: list[list[Points | None]] = [
        [run.roc() for run in group.runs] for group in comparison.groups
    ]
    histories = [[run.history for run in group.runs] for group in comparison.groups]
    return comparison_page(comparison.to_dict(), histories=histories, roc=roc)


def _new_table(names: Sequence[str], left: str, **options: Any) -> Table:
    """Create a narrow table of numeric columns and one column of names, which may wrap."""
    table = Table(box=box.MINIMAL, show_edge=False, padding=0, **options)
    for name in names:
        if name == left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=bool(name))
    return table


def _table(comparison: Comparison) -> Table:
    names = names_at("comparison", comparison.task)
    table = _new_table(
        ["", "group", "seeds", *(name.replace("_", "\n") for name in names)],
        "group",
        title="test: mean ± standard deviation over seeds",
    )
    for number, group in enumerate(comparison.groups, start=1):
        scores = (_words(*group.mean_and_std(f"test/{name}")) for name in names)
        size = str(len(set(group.seeds)))
        table.add_row(str(number), Text(in_one_line(group.label + group.marks)), size, *scores)
    return table


def _table_of_runs(comparison: Comparison) -> Table:
    metric = f"test/{headline_of(comparison.task)}"
    heads = ["", "run", "seed", metric.replace("/", " "), "95 % interval"]
    table = _new_table(heads, "run")
    for number, group in enumerate(comparison.groups, start=1):
        for run in group.runs:
            ends = run.interval(metric)
            between = "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            score = _words(run.scores.get(metric), None)
            table.add_row(str(number), Text(in_one_line(run.name)), str(run.seed), score, between)
    return table


def _table_of_pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of pairs with the first group, with details of the headline score."""
    holm = ["Holm p"] * (len(pairs) > 1)
    exchanges = next(iter(pairs[0]["metrics"].values()))["num_permutations"]
    table = _new_table(
        ["", "score", "difference", "95 % interval", "p", *holm, "probability\nof better"],
        "score",
        title="test: difference to group 1, same images",
        caption=f"p from {exchanges:,} permutations",
    )
    for pair in pairs:
        for name, found in pair["metrics"].items():
            ends = found["ci95"]
            cells = [
                f"{found['difference']:+.3f}",
                "-" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}",
                p_in_words(found["p"]),
                *(p_in_words(found["p_holm"]) for _ in holm),
                probability_in_words(found["probability_b_better"]),
            ]
            table.add_row(str(pair["b"]), cell(name.replace("_", " ")), *cells)
    return table


def _words(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"
