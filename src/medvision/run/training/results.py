"""Results of a run: summary.json, the plots, and the table on the screen."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from medvision.callbacks.trackers import write_results
from medvision.console import cell, counted, print_line, screen
from medvision.data import ImageData
from medvision.data.discovery.description import reading_lines
from medvision.errors import MedvisionError
from medvision.evaluation import Evaluation, Score
from medvision.hardware import Plan
from medvision.live import phase
from medvision.models import count_parameters
from medvision.reports.findings import findings
from medvision.reports.run_facts import split_in_words
from medvision.reports.run_page import write_report
from medvision.run.storage.run_folder import RunFolder
from medvision.run.storage.test_ledger import times_in_words
from medvision.run.training.fit import Fitted
from medvision.scores import METRIC_DEFINITIONS, names_at, other_scores
from medvision.types import STAGES, Stage

TWIN_PARTS = ("with_twin", "without_twin")


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
    """How the data were split, and the number of images per class, if images have classes."""
    split: dict[str, Any] = {
        "protocol": data.protocol,
        "drawn": list(data.drawn),
        "split_seed": data.split_seed,
    }
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
    console = screen()
    if data.synthetic:
        console.rule("[bold]SYNTHETIC DATA[/bold]")
        console.print(
            "data.root is not set: this run trains on phantoms, images drawn by code.\n"
            "Its scores do not apply to patients. Set data.root=FOLDER to use real images.",
            highlight=False,
        )
        console.rule()
    counts = summary["dataset"]["num_images"]
    network = summary["model"]
    print_line(
        f"{summary['experiment']}: {network['name']}, {network['num_parameters']:,} parameters;"
        f" {data.name}: {counts['train']} train, {counts['val']} val, {counts['test']} test"
        f" images; {summary['device']}, {summary['precision']}, seed {summary['seed']}"
    )
    print_line(f"split: {split_in_words(summary['dataset'])}")
    for line in reading_lines(data.index_read):
        print_line(line)
    classes = summary["dataset"].get("class_counts")
    if classes is not None:
        console.print(_class_table(classes))
    loaded = getattr(model, "loaded_weights", None)
    for note in [*summary["warnings"], *([] if loaded is None else loaded.report())]:
        print_line(f"note: {note}")
    print_line(f"run folder: {path}")


def finish(
    folder: RunFolder,
    summary: Mapping[str, Any],
    *,
    data: ImageData,
    evaluation: Evaluation,
    fitted: Fitted,
    scores: Mapping[str, Score],
    config: Mapping[str, Any],
    upload: bool,
) -> dict[str, Any]:
    """Write the scores, the plots, the report and the final summary; print the table.

    The summary is written last: a run with status finished has all of its files.
    """
    best, rows = fitted.best, fitted.rows
    late = [*evaluation.notes, *([best.warning] if best.warning else [])]
    first = first_notes(evaluation, data)
    final: dict[str, Any] = {
        **summary,
        **_of_fit(fitted),
        "status": "failed" if evaluation.not_finite else "finished",
        "metrics": {**_of_best_epoch(fitted, "train/"), **scores, **_of_callbacks(fitted, scores)},
        **({} if evaluation.threshold is None else {"threshold": evaluation.threshold}),
        **evaluation.details(),
        **evaluation.near_duplicate_scores(),
        **evaluation.further_scores(),
        **images_behind(evaluation),
        "warnings": [*first, *(w for w in summary["warnings"] if w not in first), *late],
    }
    final["warnings"] += findings(final, rows)
    with phase("drawing plots and report"):
        evaluation.plot(rows)
        worst, typical = evaluation.cases()
        write_report(folder.path, summary=final, worst=worst, typical=typical)
    if fitted.logger is not None:
        write_results(fitted.logger, folder.path, summary=final, config=config, upload=upload)
    folder.write_summary(final)
    print_scores(final)
    if final.get("test_evaluations", 0) > 1:
        times = final["test_evaluations"]
        print_line(f"note: {times_in_words(times)}")
    print_line(f"report: {folder.path / 'report.html'}")
    print_line(str(folder.path))
    return final


def images_behind(evaluation: Evaluation) -> dict[str, Any]:
    """Numbers of images of ``summary.json`` that were scored, and that have no finite output."""
    found: dict[str, Any] = {"scored": {s: dict(n) for s, n in evaluation.scored.items()}}
    if evaluation.not_finite:
        found["not_finite"] = dict(evaluation.not_finite)
    return found


def first_notes(evaluation: Evaluation, data: ImageData) -> list[str]:
    """Notes that a reader must see before any score."""
    found = []
    for stage, number in evaluation.not_finite.items():
        found.append(
            f"the output of the network is not finite for {number} of"
            f" {counted(evaluation.scored[stage]['num_images'], f'{stage} image')}: all scores on"
            f" {stage} are undefined"
        )
    for stage, behind in evaluation.scored.items():
        found += part_note(stage, behind["num_images"], len(data.tables[stage]))
    return found


def part_note(stage: Stage, scored: int, whole: int) -> list[str]:
    """Note that only a part of a split is scored; empty if all of it is."""
    if scored >= whole:
        return []
    what = {
        "val": "the choice of the best epoch and the scores on val rest on them",
        "test": "the scores are not those of the test split",
    }.get(stage, "")
    return [
        f"only {scored} of {counted(whole, f'{stage} image')} are scored"
        f" (trainer.limit_{stage}_batches): {what}"
    ]


def expected_parts(
    limits: Mapping[str, Any], data: ImageData, stages: Sequence[Stage]
) -> list[str]:
    """Notes on splits of which the limits of the trainer leave out a part, before the run.

    Args:
        limits: Section ``trainer`` of the config.
        data: The prepared data module.
        stages: Splits that will be scored.
    """
    found = []
    for stage in stages:
        limit, whole = limits.get(f"limit_{stage}_batches"), len(data.tables[stage])
        batches = math.ceil(whole / data.batch_size)
        if limit is None or not whole:
            continue
        used = int(limit * batches) if isinstance(limit, float) else min(limit, batches)
        found += part_note(stage, min(used * data.batch_size, whole), whole)
    return found


def check_finite(summary: Mapping[str, Any], folder: Path) -> None:
    """Fail if a measured image has no finite output.

    Raises:
        MedvisionError: With the number of such images.
    """
    for stage, number in (summary.get("not_finite") or {}).items():
        total = counted(summary["scored"][stage]["num_images"], f"{stage} image")
        raise MedvisionError(
            f"the output of the network is not finite for {number} of {total}",
            where=str(folder),
            hint="see the blank rows of the predictions; train with a lower optimizer.lr or"
            " trainer.precision=32",
            exit_code=3,
        )


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


def _class_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table(title="images by class")
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
    console, metrics = screen(), summary["metrics"]
    others = [score.name for score in other_scores(metrics, summary["task"])]
    dataset, name = summary["dataset"], cell(summary["experiment"])
    table = Table(title=f"{name}: epoch {summary['best_epoch'] + 1} of {summary['epochs']}")
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
    if dataset.get("protocol"):
        print_line(f"split: {split_in_words(dataset)}")
    if summary.get("twins"):
        external = "external_check" in summary
        console.print(_near_duplicate_table(summary["twins"], external=external))
    if summary.get("annotators"):
        print_line(agreement_text(summary["annotators"]))
    for warning in summary["warnings"]:
        print_line(f"note: {warning}")


def agreement_text(annotators: Mapping[str, Any]) -> str:
    """Agreement between annotators in one sentence, as a baseline for the scores of a model."""
    dice, iou = (_with_interval(annotators, name) for name in ("dice", "iou"))
    return (
        f"human baseline: the annotators {', '.join(annotators['names'])} agree with Dice {dice}"
        f" and IoU {iou} on {counted(annotators['num_images'], 'test image')}"
    )


def _near_duplicate_table(twins: Mapping[str, Any], *, external: bool) -> Table:
    """Test scores with and without a near-duplicate in train, and of the nearest train image."""
    where = "train or val of the run" if external else "train"
    table = Table(title=f"test images with and without a near-duplicate in {where}")
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
        table.add_row(f"nearest-neighbour {cell(name)}", *cells)
    return table


def _with_interval(scores: Mapping[str, Any], name: str) -> str:
    value, ends = scores.get(name), scores.get(f"{name}_ci95")
    if value is None or ends is None:
        return _words(value)
    return f"{value:.3f} ({ends[0]:.3f}-{ends[1]:.3f})"


def _words(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
