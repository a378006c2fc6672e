"""What a run found out: summary.json, the plots, and the table on the screen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from medvision.callbacks import BestAndLast
from medvision.data import SegmentationData
from medvision.hardware import Plan
from medvision.metrics import bootstrap_mean_interval
from medvision.models import count_parameters
from medvision.reports.figures import write_curves, write_test_plots
from medvision.run.folder import RunFolder
from medvision.types import STAGES

SHOWN = ("dice", "iou", "dice_original", "iou_original", "accuracy", "precision", "recall", "auroc")
WITH_INTERVAL = ("dice", "iou", "dice_original", "iou_original")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What the best checkpoint scored on one split.

    Attributes:
        metrics: Value by name; NaN where undefined.
        rows: One dict per image, as the predictions csv holds them.
        roc: False and true positive rate and threshold of all pixels.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]
    roc: tuple[NDArray[np.float64], ...] | None


def first_summary(
    experiment: str, seed: int, data: SegmentationData, model: nn.Module, plan: Plan
) -> dict[str, Any]:
    """What ``summary.json`` can say before the first step."""
    return {
        "experiment": experiment,
        "seed": seed,
        "status": "running",
        "task": data.task,
        "dataset": {
            "name": data.name,
            "synthetic": data.synthetic,
            "fingerprint": data.fingerprint,
            "num_images": {stage: len(data.tables[stage]) for stage in STAGES},
        },
        "model": {"name": type(model).__name__, "num_parameters": count_parameters(model)},
        "metrics": {},
        "best_checkpoint": None,
        "best_epoch": None,
        "epochs": 0,
        "timing": {},
        "precision": plan.precision,
        "device": plan.accelerator,
        "warnings": list(data.notes),
    }


def greet(path: Path, data: SegmentationData, summary: Mapping[str, Any]) -> None:
    """Say what is about to run, on which data, and what was found about it."""
    console = Console()
    if data.synthetic:
        console.rule("[bold]SYNTHETIC DATA[/bold]")
        console.print(
            "These images are drawn by code. Scores on them say nothing about patients;\n"
            "give data.root=FOLDER for real ones.",
            highlight=False,
        )
        console.rule()
    counts = summary["dataset"]["num_images"]
    model = summary["model"]
    console.print(
        f"{summary['experiment']}: {model['name']} with {model['num_parameters']:,} parameters on"
        f" {data.name}; {counts['train']} train, {counts['val']} val, {counts['test']} test images;"
        f" {summary['device']}, {summary['precision']}, seed {summary['seed']}",
        highlight=False,
        soft_wrap=True,
    )
    for note in data.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"run folder: {path}", highlight=False, soft_wrap=True, markup=False)


def finish(
    folder: RunFolder,
    summary: Mapping[str, Any],
    *,
    data: SegmentationData,
    best: BestAndLast,
    rows: Sequence[Mapping[str, float | int | None]],
    evaluated: Mapping[str, Evaluated],
    timing: Mapping[str, float | None],
) -> dict[str, Any]:
    """Write the scores, the plots and the final summary; print the table."""
    metrics: dict[str, float | list[float] | None] = {}
    best_row = next(row for row in rows if row["epoch"] == best.best_epoch)
    metrics |= {name: best_row[name] for name in best_row if name.startswith("train/")}
    for stage, result in evaluated.items():
        metrics |= {name: _or_none(value) for name, value in result.metrics.items()}
        for name in WITH_INTERVAL:
            values = [row[name] for row in result.rows]
            metrics[f"{stage}/{name}"] = metrics.get(f"{stage}/{name}", float(np.mean(values)))
            low, high = bootstrap_mean_interval(values, groups=data.groups_of(result.rows))
            metrics[f"{stage}/{name}_ci95"] = [low, high]
    final = {
        **summary,
        "metrics": metrics,
        "best_checkpoint": "checkpoints/best.ckpt",
        "best_epoch": best.best_epoch,
        "epochs": len(rows),
        "timing": dict(timing),
        "warnings": [*summary["warnings"], *([best.warning] if best.warning else [])],
    }
    if folder.exists:
        write_curves(folder.path, history=rows, synthetic=data.synthetic)
        if "test" in evaluated:
            write_test_plots(
                folder.path,
                roc=evaluated["test"].roc,
                auroc=_or_none(evaluated["test"].metrics["test/auroc"]),
                rows=evaluated["test"].rows,
                read=data.read_at_network_size,
                synthetic=data.synthetic,
            )
        folder.write_summary(final)
        _print_table(folder.path, final)
    return final


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print_table(path: Path, summary: Mapping[str, Any]) -> None:
    console, metrics = Console(), summary["metrics"]
    table = Table(
        title=f"{summary['experiment']}: epoch {summary['best_epoch'] + 1} of {summary['epochs']}"
    )
    for column in ("", "train", "val", "test", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    for name in SHOWN:
        interval = metrics.get(f"test/{name}_ci95")
        table.add_row(
            name,
            *(_words(metrics.get(f"{stage}/{name}")) for stage in STAGES),
            "" if interval is None else f"{interval[0]:.4f} - {interval[1]:.4f}",
        )
    console.print(table)
    for warning in summary["warnings"]:
        console.print(f"note: {warning}", highlight=False, soft_wrap=True, markup=False)
    console.print(str(path), highlight=False, soft_wrap=True, markup=False)


def _words(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
