"""Measure a finished run again: on its own test images, or on another data set."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf

from medvision.data import ImageData
from medvision.data.sample import Sample
from medvision.evaluation import Evaluation
from medvision.files import write_json
from medvision.hardware import (
    Plan,
    choose_plan,
    keep_freed_memory,
    measure_first_layers_in_float32,
)
from medvision.inference import load_network
from medvision.models import is_depthwise
from medvision.reports.findings import findings
from medvision.reports.html import write_report
from medvision.run.job import measure
from medvision.run.outcome import print_line, print_scores
from medvision.run.parts import build, build_evaluation, quieten
from medvision.run.stored import StoredRun, largest_difference
from medvision.tasks import Task
from medvision.types import STAGES, MedvisionError, Stage

Split = Literal["test", "val", "all"]

SAME = 1e-6
"""Up to this difference a figure counts as reproduced."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is measured.

    Attributes:
        data: Opened, its tables filled.
        stage: Which of its tables.
        split: What was asked for.
        external: Whether it is another data set than the run's own.
        name: For the folder of the results.
    """

    data: ImageData
    stage: Stage
    split: Split
    external: bool
    name: str


def evaluate_run(
    path: Path, *, root: Path | None = None, split: Split | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Measure the best checkpoint of a run, write a folder of results, print the scores.

    On the stored test split the figures are those of the run; HD95 and surface Dice of
    segmentations are added. Nothing is chosen anew: the threshold is the run's own.

    Args:
        path: Folder of a finished run.
        root: Another data set; None, or the run's own set in another place, for the stored split.
        split: ``test`` or ``val``; of another data set also ``all``, which is what it is where
            the set has no test split of its own.
        out: Folder for the results, new or from an earlier evaluation; None for
            ``RUN/evaluation/<split or name of root>``.

    Returns:
        What ``summary.json`` in that folder holds.

    Raises:
        MedvisionError: If the run, the data or the folder cannot be used.
    """
    quieten()
    keep_freed_memory()
    run = StoredRun.read(path)
    _check_out(out)
    network, _ = load_network(run.path)
    target = _choose(run, root, split)
    plan, notes = _plan(run, network)
    if plan.float32_first_layers:
        measure_first_layers_in_float32(network)
    task: Task = build(
        run.cfg.task, model=network, loss=build(run.cfg.loss), optimizer=_no_optimizer
    )
    if plan.channels_last:
        task = task.to(memory_format=torch.channels_last)
    out = out or run.path / "evaluation" / target.name
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "results"
        (folder / "plots").mkdir(parents=True)
        summary, evaluation = _measure(run, target, plan, task, folder, notes)
        _replace(out, folder)
    if not target.external and target.stage == "test":
        shutil.copyfile(out / "report.html", run.path / "report.html")
    print_scores(summary, evaluation.shown)
    print_line(_reproduced(summary))
    print_line(str(out))
    return summary


def _measure(
    run: StoredRun, target: Target, plan: Plan, task: Task, folder: Path, notes: list[str]
) -> tuple[dict[str, Any], Evaluation]:
    data, stage = target.data, target.stage
    names = data.class_names
    evaluation = build_evaluation(
        data,
        folder,
        threshold=float(run.summary.get("threshold", 0.5)),
        validation=run.validation(names[1]) if data.task == "classification" else None,
        chosen_on="val" if run.cfg.task.get("threshold") == "validation" else "fixed",
        surface=True,
    )
    scores = measure(run.cfg, plan, task, data, evaluation, stage)
    history = [] if target.external else run.history()
    evaluation.plot(history)
    stored = run.summary["metrics"]
    count, difference, where = largest_difference({} if target.external else stored, scores)
    summary = {
        **run.summary,
        "dataset": _dataset(run, target),
        "metrics": scores if target.external else {**stored, **scores},
        "precision": plan.precision,
        "device": plan.accelerator,
        **evaluation.details(),
        "evaluated": {
            "run": str(run.path),
            "data": str(data.root or "phantoms"),
            "split": target.split,
            "external": target.external,
            "figures_compared": count,
            "largest_difference": None if difference == float("inf") else difference,
            "differs_most": where,
        },
        "warnings": [
            *([] if target.external else run.summary["warnings"]),
            *notes,
            *data.notes,
            *evaluation.notes,
        ],
    }
    known = set(summary["warnings"])
    summary["warnings"] += [text for text in findings(summary, history) if text not in known]
    write_json(folder / "summary.json", summary)
    kept = ["config.yaml", "environment.json"]
    kept += [] if target.external else ["metrics.csv", "splits.csv"]
    for name in kept:
        if (run.path / name).exists():
            shutil.copyfile(run.path / name, folder / name)
    worst, typical = evaluation.cases()
    write_report(folder, worst=worst, typical=typical)
    return summary, evaluation


def _choose(run: StoredRun, root: Path | None, split: Split | None) -> Target:
    """Open the data to measure on."""
    if root is None:
        return _own(run, build(run.cfg.data), split)
    root = root.expanduser()
    if not root.is_dir():
        raise MedvisionError(f"{root} is not a folder", where="--data", hint="check the path")
    data = _open_at(run.cfg, root)
    samples = data.gather()
    if data.fingerprint == run.summary["dataset"]["fingerprint"]:  # the same set, moved
        return _own(run, _open_at(run.cfg, root), split)
    given = {sample.split for sample in samples} - {""}
    wanted = split or ("test" if "test" in given else "all")
    chosen = [s for s in samples if wanted in ("all", s.split)]
    if not chosen:
        raise MedvisionError(
            f"the data set has no {wanted} split",
            where=str(root),
            hint="leave --split out to measure on all of it",
        )
    data.restore([replace(sample, split="test") for sample in chosen])
    return Target(data=data, stage="test", split=wanted, external=True, name=root.resolve().name)


def _own(run: StoredRun, data: ImageData, split: Split | None) -> Target:
    stage: Literal["val", "test"] = "val" if split == "val" else "test"
    if split == "all":
        raise MedvisionError(
            "all images of a run are mostly those it was trained on",
            where="--split",
            hint="use test or val",
        )
    samples = run.splits
    data.restore(samples)
    if not data.tables[stage]:
        raise MedvisionError(
            f"the run has no {stage} images", where=str(run.path), hint="use --data ROOT"
        )
    if data.root is not None:
        _must_exist(data.root, data.tables[stage], data.task)
    return Target(data=data, stage=stage, split=stage, external=False, name=stage)


def _open_at(cfg: DictConfig, root: Path) -> ImageData:
    """The run's kind of data at another place, with a split of its own."""
    node = OmegaConf.merge(cfg.data, {"root": str(root), "splits": None})
    if "protocol" in node:
        node.protocol = "official"
    return build(node)


def _must_exist(root: Path, samples: list[Sample], task: str) -> None:
    names = [sample.path for sample in samples]
    if task == "segmentation":
        names += [sample.target for sample in samples]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise MedvisionError(
            f"{len(missing)} of {len(names)} files of the split are gone, such as {missing[0]}",
            where=str(root),
            hint="give the folder where the data set lies now with --data ROOT",
        )


def _plan(run: StoredRun, network: torch.nn.Module) -> tuple[Plan, list[str]]:
    """How the run computed, or what comes nearest on this machine, and a note where it differs."""
    trainer = run.cfg.trainer
    options: dict[str, Any] = {
        "memory_format": trainer.memory_format,
        "deterministic": trainer.deterministic,
        "network": "depthwise_encoder" if is_depthwise(network) else "dense",
    }
    try:
        return choose_plan(
            accelerator=trainer.accelerator, precision=trainer.precision, **options
        ), []
    except MedvisionError:
        plan = choose_plan(accelerator="auto", precision="auto", **options)
        return plan, [
            f"the run computed on {trainer.accelerator} in {trainer.precision}, this machine on"
            f" {plan.accelerator} in {plan.precision}: figures may differ a little"
        ]


def _dataset(run: StoredRun, target: Target) -> dict[str, Any]:
    data = target.data
    if not target.external:
        return run.summary["dataset"]
    counts = data.class_counts()
    classes = {} if counts is None else {"class_counts": {"test": counts["test"]}}
    return {
        "name": target.name,
        "synthetic": False,
        "fingerprint": data.fingerprint,
        "num_images": {stage: len(data.tables[stage]) for stage in STAGES},
        **classes,
    }


def _reproduced(summary: Mapping[str, Any]) -> str:
    evaluated = summary["evaluated"]
    count, difference = evaluated["figures_compared"], evaluated["largest_difference"]
    if evaluated["external"]:
        return f"external data: {evaluated['data']}"
    if difference is not None and difference <= SAME:
        return (
            f"reproduced: {count} figures of the run's summary.json, none off by more than {SAME}"
        )
    size = "one is undefined" if difference is None else f"by {difference:.2g}"
    return (
        f"NOT reproduced: {evaluated['differs_most']} differs from the run's summary.json ({size});"
        " the data, the machine or the packages are not those of the run"
    )


def _check_out(out: Path | None) -> None:
    """Refuse a folder that holds anything but an earlier evaluation, which is replaced."""
    if out is None or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = "evaluated" in json.loads((out / "summary.json").read_text())
    except (OSError, ValueError):  # no summary, or no JSON: somebody else's folder
        earlier = False
    if not earlier:
        raise MedvisionError("exists and is not empty", where=str(out), hint="name a new folder")


def _replace(out: Path, folder: Path) -> None:
    """Put a whole folder in the place of an earlier one."""
    if out.exists():
        shutil.rmtree(out)
    folder.rename(out)


def _no_optimizer(parameters: Any) -> Any:  # noqa: ARG001  the task calls it with them
    raise AssertionError("nothing is trained here")
