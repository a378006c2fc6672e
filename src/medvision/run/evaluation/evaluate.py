"""Evaluate a finished run: on its own test images, or on another data set."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf

from medvision.console import counted, print_line
from medvision.data import ImageData
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.shards.location import place_of
from medvision.errors import MedvisionError
from medvision.evaluation import Evaluation, FinishedRun, Score
from medvision.files import (
    check_writable,
    is_writable,
    read_plain,
    read_regular,
    short_name,
    write_atomically,
    write_json,
    write_table,
)
from medvision.hardware import (
    Plan,
    choose_plan,
    keep_freed_memory,
    measure_first_layers_in_float32,
)
from medvision.inference import load_network
from medvision.models import load_weights_strict
from medvision.reports.findings import findings
from medvision.reports.run_page import write_report
from medvision.run.config.stored import check_root
from medvision.run.storage.run_folder import check_run_folder, is_own_run
from medvision.run.storage.saved_run import StoredRun, largest_difference, read_history
from medvision.run.storage.test_ledger import (
    check_ledger,
    ledger_note,
    note_test_evaluation,
    times_in_words,
)
from medvision.run.training.build import (
    build,
    build_data,
    build_metrics,
    measure,
    metrics_for,
    silence_libraries,
)
from medvision.run.training.data_audit import check_external, duplicates_in_training
from medvision.run.training.results import (
    check_finite,
    describe_dataset,
    first_notes,
    images_behind,
    print_scores,
)
from medvision.scores import METRIC_DEFINITIONS, changed_name, changed_since, headline_of
from medvision.task_definition import task_of
from medvision.tasks import Task
from medvision.types import Stage

Split = Literal["test", "val", "all"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Data and split to measure on.

    Attributes:
        data: Opened data with its tables filled.
        stage: Table to use.
        split: Requested split.
        external: True if the data set is not the run's own.
        name: Name for the results folder.
    """

    data: ImageData
    stage: Stage
    split: Split
    external: bool
    name: str


def choose_target(
    run: StoredRun,
    root: Path | str | None,
    split: Split | None,
    keys: Mapping[str, Any] | None = None,
) -> Target:
    """Open the data to measure on.

    Args:
        run: Finished run.
        root: Folder or address of another data set; None, or the run's own set, also in another
            place, for the stored split.
        split: ``test`` or ``val``; ``all`` is allowed for another data set, and is the default if
            that set has no test split.
        keys: Keys of ``data`` for another data set.

    Raises:
        MedvisionError: If the data does not exist or has no such split, or only the config of the
            run names its address.
    """
    stored = run.cfg.data.get("root")
    place = None if root is None else place_of(root)
    if isinstance(place, Path) and not place.is_dir():
        raise MedvisionError(f"{root} is not a folder", where="--data", hint="check the path")
    own = place is None or (stored is not None and place == place_of(str(stored)))
    if own and keys:
        raise MedvisionError(
            "the images of the run itself are read as they were in training",
            where=", ".join(f"data.{name}" for name in keys),
            hint="leave the keys out, or give another data set with --data ROOT",
        )
    if own:
        check_root(
            run.cfg,
            named=None if root is None else str(root),
            is_own=is_own_run(run.path),
            where=str(run.path / "config.yaml"),
            hint="if you trust it, add --data ROOT",
        )
        if place is None and stored is not None:
            print_line(f"reading the data in {stored}, as stated in the config of the run")
        return _own(run, build_data(run.cfg.data), split)
    root = str(place)
    data = _gathered(run.cfg, root, dict(keys or {}))
    samples = data.samples
    if data.fingerprint == run.summary["dataset"]["fingerprint"]:  # the own set, moved
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
    name = (place.resolve().name if isinstance(place, Path) else root.split("/")[-1]) or "data"
    return Target(data=data, stage="test", split=wanted, external=True, name=name)


def _dataset(run: StoredRun, target: Target) -> dict[str, Any]:
    """Description of the measured data for ``summary.json``."""
    if not target.external:
        return run.summary["dataset"]
    counts = target.data.class_counts()
    classes = {} if counts is None else {"class_counts": {"test": counts["test"]}}
    return {**describe_dataset(target.data), "name": target.name, **classes}


def _own(run: StoredRun, data: ImageData, split: Split | None) -> Target:
    stage: Literal["val", "test"] = "val" if split == "val" else "test"
    if split == "all":
        raise MedvisionError(
            "most images of a run are its training images",
            where="--split",
            hint="use test or val",
        )
    data.restore(read_splits(run.path / "splits.csv"))
    if not data.tables[stage]:
        raise MedvisionError(
            f"the run has no {stage} images", where=str(run.path), hint="use --data ROOT"
        )
    missing = data.source.missing(data.tables[stage])
    if missing:
        total = len(data.tables[stage]) * (1 + data.has_masks)
        raise MedvisionError(
            f"missing files of the split: {len(missing)} of {total}, such as {missing[0]}",
            where=str(data.root),
            hint="give the current folder of the data set with --data ROOT",
        )
    return Target(data=data, stage=stage, split=stage, external=False, name=stage)


def _open_at(cfg: DictConfig, root: str, keys: Mapping[str, Any] | None = None) -> ImageData:
    """Open the run's kind of data at another place, with a new split.

    Folders of the run's own data, such as ``data.masks``, are not those of another set, and it may
    hold no sequences; how its masks are named may be the same.
    """
    own: dict[str, Any] = dict.fromkeys(
        key for key in ("images", "masks", "roi", "group_by") if key in cfg.data
    )
    node = OmegaConf.merge(cfg.data, {"splits": None} | own | dict(keys or {}) | {"root": root})
    if "protocol" in node:
        node.protocol = "official"
    return build_data(node)


_NAMES_MASKS = ("mask_suffix", "mask_pattern", "mask_template", "annotator", "mask_merge")


def _gathered(cfg: DictConfig, root: str, keys: dict[str, Any]) -> ImageData:
    """Open another data set and list its images.

    A ``group_pattern`` of the run that does not fit its names is left out with a note, and another
    says that ``exclude`` of the run applies; keys that name the masks or the classes are kept, and
    the error says how to leave them out.
    """
    data = _open_at(cfg, root, keys)
    try:
        data.gather()
    except MedvisionError as fault:
        inherited = {key for key in cfg.data if cfg.data[key] and key not in keys}
        if fault.where == "data.group_pattern" and "group_pattern" in inherited:
            data = _gathered(cfg, root, {**keys, "group_pattern": None})
            data.notes.append(
                f"data.group_pattern of the run is not used for this data set: {fault.what}"
            )
            return data
        about = f"{fault.what} {fault.where}"
        names = _NAMES_MASKS if "mask" in about else ("class_pattern",) if "class" in about else ()
        own = [f"data.{key}" for key in names if key in inherited]
        if own:
            advice = (
                f"the run's {', '.join(own)} applies here too; to leave it out, add"
                f" {' '.join(f'{key}=null' for key in own)}"
            )
            hint = f"{fault.hint}; {advice}" if fault.hint else advice
            raise MedvisionError(fault.what, where=fault.where, hint=hint) from fault
        raise
    globs = cfg.data.get("exclude")
    if globs and "exclude" not in keys:
        globs = globs if isinstance(globs, str) else ", ".join(globs)
        data.notes.append(
            f"data.exclude of the run is used for this data set too ({globs}); set"
            " data.exclude=null to include these files"
        )
    return data


SAME = 1e-6
"""Largest difference at which a score counts as reproduced."""

OPENED = (
    "the test split of this run was sealed and is now open: from now on its scores must not be used"
    " to change hyper-parameters"
)


def evaluate_run(
    path: Path,
    *,
    root: Path | str | None = None,
    split: Split | None = None,
    out: Path | None = None,
    conventions: bool = False,
    accelerator: str | None = None,
    keys: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the best checkpoint of a run, write a folder of results, and print the scores.

    On the stored test split the scores are those of the run; HD95 and surface Dice are added for
    segmentations. Nothing is chosen again: the threshold is the run's own. Every evaluation on test
    images adds a line to ``runs/test_ledger.csv``.

    Args:
        path: Folder of a finished run.
        root: Folder or address of another data set; None, or the run's own set, also in another
            place, for the stored split.
        split: ``test`` or ``val``; ``all`` is allowed for another data set, and is the default if
            that set has no test split.
        out: Folder for the results, new or from an earlier evaluation; None for
            ``RUN/evaluation/<split or name of root>``.
        conventions: If True, also score the same predictions by the conventions of other tools.
        accelerator: Device to compute on, in the run's precision; None for the device of the run.
        keys: Keys of ``data`` that say how another data set is read, by name.

    Returns:
        Content of ``summary.json`` in that folder.

    Raises:
        MedvisionError: If the run, the data, the folder or the ledger cannot be used.
    """
    silence_libraries()
    keep_freed_memory()
    run = StoredRun.read(path)
    check_run_folder(run.path)
    _check_out(out, run.path)
    network, _ = load_network(run.path, for_loss=True)
    target = choose_target(run, root, split, keys)
    out = out or run.path / "evaluation" / target.name
    _check_out(out, run.path)
    if target.stage == "test":
        check_ledger(target.data.split_fingerprint("test"))
    plan, notes = _plan(run, accelerator)
    if plan.cpu_bf16:
        measure_first_layers_in_float32(network)
    stored = str(run.path / "config.yaml")
    task: Task = build(
        run.cfg.task,
        model=network,
        loss=unknown_loss if "loss" in run.unmeasured else build(run.cfg.loss, stored=stored),
        optimizer=_no_optimizer,
        **metrics_for(run.cfg, build_metrics(run.cfg, stored=stored)),
    )
    if isinstance(task.loss, torch.nn.Module) and task.loss.state_dict():
        _load_loss(task.loss, run.path / "checkpoints" / "best.ckpt")
    for name, target_class in run.unmeasured.items():
        package = target_class.partition(".")[0]
        notes.append(
            f"{name} was not measured, because it is computed by {target_class}: if you know the"
            f" package {package} and trust it, add --trust {package}"
        )
    if plan.channels_last:
        task = task.to(memory_format=torch.channels_last)
    place = Path(os.path.realpath(out))
    place.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{short_name(place.name, most=200)}."
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=prefix) as scratch:
        folder = Path(scratch) / "results"
        (folder / "plots").mkdir(parents=True)
        summary = _measure(run, target, plan, task, folder, notes, conventions=conventions)
        if place.exists():  # from an earlier evaluation; removed with the scratch folder
            _keep_others(place, folder)
            place.rename(folder.with_name("earlier"))
        folder.rename(place)
    if not target.external and target.stage == "test":
        _renew_report(run.path, (place / "report.html").read_bytes())
    print_scores(summary)
    print_line(_reproduced(summary))
    if target.stage == "test" and summary["test_evaluations"] > 1:
        times = summary["test_evaluations"]
        print_line(f"note: {times_in_words(times)}")
    print_line(f"report: {out / 'report.html'}")
    print_line(str(out))
    check_finite(summary, out)
    return summary


def _measure(
    run: StoredRun,
    target: Target,
    plan: Plan,
    task: Task,
    folder: Path,
    notes: list[str],
    *,
    conventions: bool,
) -> dict[str, Any]:
    data, stage = target.data, target.stage
    options: Any = OmegaConf.to_container(run.cfg.task)
    evaluation: Evaluation = (
        task_of(data.task)
        .load("evaluation")
        .of_run(
            folder=folder,
            data=data,
            options=options,
            finished=FinishedRun(path=run.path, summary=run.summary),
        )
    )
    evaluation.with_conventions = conventions
    try:
        evaluation.subgroups = data.subgroup_values()
    except MedvisionError as error:  # another set, or a table that changed: the scores still hold
        evaluation.notes.append(f"no scores by subgroup: {error.what} ({error.where})")
    checked = check_external(run.path, data) if target.external else None
    if checked is not None:
        evaluation.near_duplicates = checked.near_duplicates
    elif stage == "test":
        data.read_again()
        evaluation.near_duplicates = duplicates_in_training(data)
    scores = measure(run.cfg, plan, task, data, evaluation, stage)
    if "loss" in run.unmeasured:
        del scores[f"{stage}/loss"]
    history = [] if target.external else read_history(run.path)
    evaluation.plot(history)
    stored = run.summary["metrics"]
    changes = _changes(run, target)
    known = {} if target.external else stored
    same = {name: value for name, value in known.items() if not changed_name(name, changes)}
    count, difference, where = largest_difference(same, scores)
    changed = _changed(known, scores, changes)
    if changed:
        evaluation.notes.append(_changed_note(run, changed))
    opened = stage == "test" and bool(run.summary.get("sealed"))
    summary = {
        **_kept(run, target),
        "status": "failed" if evaluation.not_finite else "finished",
        "dataset": _dataset(run, target),
        "metric_definitions": METRIC_DEFINITIONS,
        "metrics": scores if target.external else {**same, **scores},
        "precision": plan.precision,
        "device": plan.accelerator,
        **evaluation.details(),
        **evaluation.near_duplicate_scores(),
        **evaluation.further_scores(),
        "evaluated": {
            "run": str(run.path),
            "data": str(data.root or "phantoms"),
            "split": target.split,
            "external": target.external,
            "figures_compared": count,
            "largest_difference": None if difference == float("inf") else difference,
            "differs_most": where,
            **({"definitions_changed": changed} if changed else {}),
        },
        **({} if checked is None else {"external_check": checked.summary}),
        **images_behind(evaluation),
        "warnings": [
            *first_notes(evaluation, data),
            *([] if checked is None else checked.notes),
            *([OPENED] if opened and not target.external else []),
            *([] if target.external else _lasting(run.summary["warnings"], stage, opened)),
            *notes,
            *data.notes,
            *evaluation.notes,
        ],
    }
    if conventions:
        summary["conventions"] = evaluation.conventions(stage)
    if stage == "test":
        summary["test_evaluations"] = _note(run, target, scores)
        summary["warnings"] += filter(None, [ledger_note()])
    known = set(summary["warnings"])
    summary["warnings"] += [text for text in findings(summary, history) if text not in known]
    write_json(folder / "summary.json", summary)
    if checked is not None and checked.copies:
        write_table(folder / "known_images.csv", checked.copies)
    kept = ["config.yaml", "environment.json"]
    kept += [] if target.external else ["metrics.csv", "splits.csv"]
    for name in kept:
        if (run.path / name).exists():
            (folder / name).write_bytes(read_regular(run.path / name))
    worst, typical = evaluation.cases()
    write_report(folder, worst=worst, typical=typical)
    return summary


def _changes(run: StoredRun, target: Target) -> dict[str, str]:
    """Scores whose definition changed since the run, each with its new definition."""
    version, loss = run.summary.get("metric_definitions", 1), run.cfg.loss
    changes = changed_since(
        version, target.data.task, num_classes=max(2, len(target.data.class_names))
    )
    if version < 3 and loss.get("class_weights") and loss.get("label_smoothing"):
        changes["loss"] = "class weights apply to the smoothed labels too, as in PyTorch"
    return changes


def _changed(
    stored: Mapping[str, Any], scores: Mapping[str, Score], changes: Mapping[str, str]
) -> dict[str, str]:
    """Select the changed definitions that give a value of the run another value."""
    found: dict[str, str] = {}
    for name in scores:
        key = changed_name(name, changes)
        if key is None or key in found or name not in stored:
            continue
        _, difference, _ = largest_difference({name: stored[name]}, {name: scores[name]})
        if difference > SAME:
            found[key] = changes[key]
    return found


def _changed_note(run: StoredRun, changed: Mapping[str, str]) -> str:
    version = run.summary.get("metric_definitions", 1)
    listed = "; ".join(f"{name}: {what}" for name, what in changed.items())
    return (
        f"definitions that changed since this run (version {version}, now {METRIC_DEFINITIONS}):"
        f" {listed}. Other values of the run are compared"
    )


def _kept(run: StoredRun, target: Target) -> dict[str, Any]:
    """Part of the run's own summary that also applies to these images."""
    gone = ["sealed"] * (target.stage == "test") + [
        "audit",
        "twins",
        "annotators",
    ] * target.external
    gone += ["scored", "not_finite", "subgroups", "per_patient", "detectable_difference"]
    return {key: value for key, value in run.summary.items() if key not in gone}


def _lasting(warnings: list[str], stage: Stage, opened: bool) -> list[str]:
    """Select the warnings of the run that do not rest on the scores of the split measured now.

    The one about a sealed test split is removed if it is now open.
    """
    measured_again = re.compile(
        rf"(the output of the network is not finite for|only) [\d,]+ (of [\d,]+ )?{stage} image"
        rf"|no 95 % interval of {stage} |.* was never predicted on {stage}, "
        rf"|all [\d,]+ {stage} images are predicted as " + "|HD95 leaves out " * (stage == "test")
    )
    kept = [warning for warning in warnings if not measured_again.match(warning)]
    return [w for w in kept if not (opened and w.startswith("the test split is sealed"))]


def _note(run: StoredRun, target: Target, scores: Mapping[str, Score]) -> int:
    """Add a line to the ledger; return the number of lines for this test split."""
    metric = f"test/{headline_of(target.data.task)}"
    value: Any = scores.get(metric)
    return note_test_evaluation(
        config=read_plain(run.path / "config.yaml"),
        split_fingerprint=target.data.split_fingerprint("test"),
        metric=metric,
        value=value,
        run=run.path,
    )


def _plan(run: StoredRun, accelerator: str | None) -> tuple[Plan, list[str]]:
    """Hardware plan of the run, or the nearest on this machine with a note on the difference."""
    trainer = run.cfg.trainer
    options: dict[str, Any] = {
        "memory_format": "auto" if accelerator else trainer.memory_format,
        "deterministic": trainer.deterministic,
    }
    try:
        plan = choose_plan(
            accelerator=accelerator or trainer.accelerator, precision=trainer.precision, **options
        )
    except MedvisionError:
        if accelerator is not None:
            raise
        plan = choose_plan(accelerator="auto", precision="auto", **options)
    if (plan.accelerator, plan.precision) == (trainer.accelerator, trainer.precision):
        return plan, []
    return plan, [
        f"the run used {trainer.accelerator} in {trainer.precision}, this evaluation on"
        f" {plan.accelerator} in {plan.precision}: scores may differ slightly"
    ]


def _reproduced(summary: Mapping[str, Any]) -> str:
    evaluated = summary["evaluated"]
    count, difference = evaluated["figures_compared"], evaluated["largest_difference"]
    if evaluated["external"]:
        checked = summary["external_check"]
        found = checked.get("near_duplicates", {}).get("images")
        return f"external data: {evaluated['data']}" + (
            "" if found or not checked["checked"] else f"; {checked['text']}"  # else a warning
        )
    if not count:
        return "nothing to compare: the run's summary.json has no score of these images"
    if difference is not None and difference <= SAME:
        return f"reproduced: {counted(count, 'value')} of the run's summary.json, all within {SAME}"
    size = "one is undefined" if difference is None else f"by {difference:.2g}"
    return (
        f"NOT reproduced: {evaluated['differs_most']} differs from the run's summary.json ({size});"
        " the data, the machine, the packages or medvision differ from those of the run"
    )


def _renew_report(run: Path, page: bytes) -> None:
    """Replace the report of the run, whose folder may be read-only."""
    try:
        write_atomically(run / "report.html", page)
    except OSError as error:
        print_line(f"note: {run / 'report.html'} was not updated: {error.strerror}")


def _check_out(out: Path | None, run: Path) -> None:
    """Refuse a folder that cannot be written, or with other content than an earlier evaluation."""
    if out is not None:
        check_writable(out.parent)
    elif not is_writable(run / "evaluation"):
        raise MedvisionError(
            "the run folder is read-only",
            where=str(run),
            hint="give a writable folder for the results with --out",
        )
    if out is None or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = "evaluated" in read_plain(out / "summary.json")
    except (OSError, ValueError):  # no summary or invalid JSON: not a results folder
        earlier = False
    if not earlier:
        raise MedvisionError("the folder is not empty", where=str(out), hint="name a new folder")


def _keep_others(earlier: Path, results: Path) -> None:
    """Link into the new results what they do not write themselves: files of the user's own."""
    for parent, folders, files in os.walk(earlier):
        inside = results / Path(parent).relative_to(earlier)
        linked = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*files, *linked):
            if os.path.lexists(inside / name):
                continue
            inside.mkdir(parents=True, exist_ok=True)
            try:
                os.link(Path(parent, name), inside / name, follow_symlinks=False)
            except OSError:  # a file system without hard links
                shutil.copy2(Path(parent, name), inside / name, follow_symlinks=False)


def _load_loss(loss: torch.nn.Module, file: Path) -> None:
    """Load the tensors of a loss, which it may have learned."""
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]  # checked before
    own = {name: value for name, value in state.items() if name.startswith("loss.")}
    tensors = {name.removeprefix("loss."): value for name, value in own.items()}
    load_weights_strict(loss, tensors, where=str(file))


def unknown_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Loss of a run whose own loss is not trusted: not a number."""
    return torch.full((), float("nan"), device=logits.device)


def _no_optimizer(parameters: Any) -> Any:  # noqa: ARG001  required by the task
    raise AssertionError("nothing is trained here")
