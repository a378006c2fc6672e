"""Results of a run: summary.json, the plots, and the table on the screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from medvision.console import cell, counted, print_line
from medvision.data import ImageData
from medvision.evaluation import Evaluation, Score
from medvision.hardware import Plan
from medvision.models import count_parameters
from medvision.reports.findings import findings
from medvision.reports.run_page import write_report
from medvision.run.storage.run_folder import RunFolder
from medvision.run.storage.test_ledger import LEDGER
from medvision.run.training.fit import Fitted
from medvision.scores import names_at, other_scores
from medvision.types import STAGES

TWIN_PARTS = ("with_twin", "without_twin")

METRIC_DEFINITIONS = 2
"""Increases when the definition of a score changes: older values are not comparable."""


def first_summary(
    experiment: str, seed: int, data: ImageData, model: nn.Module, plan: Plan
) -> dict[str, Any]:
    """Content of ``summary.json`` before the first step."""
    return {
        "experiment": experiment,
        "seed": seed,
        "status": "running",
        "task": data.task,
        "dataset": {**describe_dataset(data), **_protocol(data)},
        "model": {
            "name": getattr(model, "architecture", type(model).__name__),
            "num_parameters": count_parameters(model),
            **_weights(model),
        },
        "metric_definitions": METRIC_DEFINITIONS,
        "metrics": {},
        "best_checkpoint": None,
        "best_epoch": None,
        "epochs": 0,
        "timing": {},
        "precision": plan.precision,
        "device": plan.accelerator,
        "warnings": [*data.notes, *filter(None, [getattr(model, "note", None)])],
    }


def describe_dataset(data: ImageData) -> dict[str, Any]:
    """Identity of the data, and the number of images of each split."""
    return {
        "name": data.name,
        "synthetic": data.synthetic,
        "fingerprint": data.fingerprint,
        "test_fingerprint": data.split_fingerprint("test"),
        "num_images": {stage: len(data.tables[stage]) for stage in STAGES},
    }


def _protocol(data: ImageData) -> dict[str, Any]:
    """Split protocol, and the number of images per class, if images have classes."""
    split: dict[str, Any] = {"protocol": data.protocol}
    if data.protocol == "kfold":
        split |= {"fold": data.fold, "folds": data.folds}
    counts = data.class_counts()
    return split if counts is None else {**split, "class_counts": counts}


def _weights(model: nn.Module) -> dict[str, Any]:
    loaded: Any = getattr(model, "loaded_weights", None)
    if loaded is None or loaded.source == "none":
        return {}
    kept = {"source": loaded.source, "taken": len(loaded.taken)}
    return {"weights": {**kept, "left": list(loaded.left), "unused": len(loaded.unused)}}


def greet(path: Path, data: ImageData, model: nn.Module, summary: Mapping[str, Any]) -> None:
    """Print what is about to run, on which data, and the findings about the data."""
    console = Console()
    if data.synthetic:
        console.rule("[bold]SYNTHETIC DATA[/bold]")
        console.print(
            "These images are drawn by code. Their scores do not apply to patients;\n"
            "give data.root=FOLDER for real images.",
            highlight=False,
        )
        console.rule()
    counts = summary["dataset"]["num_images"]
    network = summary["model"]
    print_line(
        f"{summary['experiment']}: {network['name']} with {network['num_parameters']:,} parameters"
        f" on {data.name}; {counts['train']} train, {counts['val']} val, {counts['test']} test"
        f" images; {summary['device']}, {summary['precision']}, seed {summary['seed']}"
    )
    classes = summary["dataset"].get("class_counts")
    if classes is not None:
        console.print(_class_table(classes, summary["dataset"]["protocol"]))
    loaded = getattr(model, "loaded_weights", None)
    for note in [*summary["warnings"], *([] if loaded is None else loaded.report())]:
        print_line(f"note: {note}")
    print_line(f"run folder: {path}")


def finish(
    folder: RunFolder,
    summary: Mapping[str, Any],
    *,
    evaluation: Evaluation,
    fitted: Fitted,
    scores: Mapping[str, Score],
) -> dict[str, Any]:
    """Write the scores, the plots, the report and the final summary; print the table.

    The summary is written last: a run with status finished has all of its files.
    """
    best, rows = fitted.best, fitted.rows
    late = [*evaluation.notes, *([best.warning] if best.warning else [])]
    final: dict[str, Any] = {
        **summary,
        **_of_fit(fitted),
        "status": "finished",
        "metrics": {**_of_best_epoch(fitted, "train/"), **scores, **_of_callbacks(fitted, scores)},
        **({} if evaluation.threshold is None else {"threshold": evaluation.threshold}),
        **evaluation.details(),
        **evaluation.near_duplicate_scores(),
        "warnings": [*summary["warnings"], *late],
    }
    final["warnings"] += findings(final, rows)
    evaluation.plot(rows)
    worst, typical = evaluation.cases()
    write_report(folder.path, summary=final, worst=worst, typical=typical)
    folder.write_summary(final)
    print_scores(final)
    if final.get("test_evaluations", 0) > 1:
        times = final["test_evaluations"]
        print_line(f"note: this test split has been evaluated {times} times ({LEDGER})")
    print_line(str(folder.path))
    return final


def finish_pruned(
    folder: RunFolder, summary: Mapping[str, Any], *, fitted: Fitted
) -> dict[str, Any]:
    """Write the summary of a pruned run: nothing is measured, the checkpoints stay."""
    metrics = _of_best_epoch(fitted, "train/") | _of_best_epoch(fitted, "val/")
    final = {**summary, **_of_fit(fitted), "status": "pruned", "metrics": metrics}
    folder.write_summary(final)
    print_line(f"pruned after {counted(len(fitted.rows), 'epoch')}: {folder.path}")
    return final


def _of_fit(fitted: Fitted) -> dict[str, Any]:
    """Summary of the fit."""
    return {
        "best_checkpoint": "checkpoints/best.ckpt",
        "best_epoch": fitted.best.best_epoch,
        "epochs": len(fitted.rows),
        "timing": dict(fitted.timing),
        **({} if fitted.xla is None else {"xla": dict(fitted.xla)}),
    }


def _of_best_epoch(fitted: Fitted, stage: str) -> dict[str, float | int | None]:
    """Values that the best epoch logged for a stage."""
    row = next(row for row in fitted.rows if row["epoch"] == fitted.best.best_epoch)
    return {name: row[name] for name in row if name.startswith(stage)}


def _of_callbacks(fitted: Fitted, scores: Mapping[str, Score]) -> dict[str, float | int | None]:
    """Validation values logged by the user's callbacks, which are not measured again."""
    logged = _of_best_epoch(fitted, "val/")
    return {name: value for name, value in logged.items() if name not in scores}


def _class_table(counts: Mapping[str, Mapping[str, int]], protocol: str) -> Table:
    table = Table(title=f"images by class, protocol {protocol}")
    table.add_column("")
    names = list(counts["train"])
    for name in [*names, "all"]:
        table.add_column(cell(name), justify="right", overflow="fold")
    for stage in STAGES:
        numbers = [counts[stage][name] for name in names]
        table.add_row(stage, *map(str, numbers), str(sum(numbers)))
    return table


def print_scores(summary: Mapping[str, Any]) -> None:
    """Print the scores of each split that was measured, and every warning."""
    console, metrics = Console(), summary["metrics"]
    others = [score.name for score in other_scores(metrics, summary["task"])]
    dataset, name = summary["dataset"], cell(summary["experiment"])
    table = Table(
        title=f"{name}: epoch {summary['best_epoch'] + 1} of {summary['epochs']}"
        + (f", {dataset['protocol']} protocol" if dataset.get("protocol") else "")
        + (f", fold {dataset['fold']} of {dataset['folds']}" if "fold" in dataset else "")
    )
    stages = [s for s in STAGES if any(name.startswith(f"{s}/") for name in metrics)]
    for column in ("", *stages, "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    for name in (*names_at("terminal", summary["task"]), *others):
        if name in others[:1]:
            table.add_section()
        if not any(f"{stage}/{name}" in metrics for stage in stages):
            continue
        interval = metrics.get(f"{stages[-1]}/{name}_ci95")
        table.add_row(
            cell(name),
            *(_words(metrics.get(f"{stage}/{name}")) for stage in stages),
            "" if interval is None else f"{interval[0]:.4f} - {interval[1]:.4f}",
        )
    console.print(table)
    if summary.get("twins"):
        console.print(_near_duplicate_table(summary["twins"]))
    for warning in summary["warnings"]:
        print_line(f"note: {warning}")


def _near_duplicate_table(twins: Mapping[str, Any]) -> Table:
    """Test scores with and without a near-duplicate in train, and of the nearest train image."""
    table = Table(title="test images with and without a near-duplicate in train")
    names = [n for n in twins["without_twin"] or twins["with_twin"] if not n.endswith("_ci95")]
    names = [name for name in names if name != "num_images"]
    table.add_column("")
    for part in TWIN_PARTS:
        count = twins[part]["num_images"]
        words = part.replace("_", " ").replace("twin", "near-duplicate")
        table.add_column(f"{words} ({counted(count, 'image')})", justify="right")
    for name in names:
        table.add_row(cell(name), *(_with_interval(twins[part], name) for part in TWIN_PARTS))
    recalled = twins["memory_baseline"]
    for name in (n for n in recalled["without_twin"] if not n.endswith("_ci95")):
        cells = (_with_interval(recalled[part], name) for part in TWIN_PARTS)
        table.add_row(f"{cell(name)} of the nearest training image", *cells)
    return table


def _with_interval(scores: Mapping[str, Any], name: str) -> str:
    value, ends = scores.get(name), scores.get(f"{name}_ci95")
    if value is None or ends is None:
        return _words(value)
    return f"{value:.3f} ({ends[0]:.3f}-{ends[1]:.3f})"


def _words(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
