"""One experiment: data, model, task, fit, test of the best checkpoint, and the run folder."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import seed_everything
from torch import nn

from medvision.callbacks.checkpoints import DirectFiles
from medvision.console import print_line
from medvision.data import ImageData
from medvision.data.discovery.splits_csv import write_splits
from medvision.evaluation import Evaluation, Score
from medvision.files import atomic_path, write_atomically
from medvision.hardware import (
    Plan,
    announce_host,
    choose_plan,
    denormals_as_zero,
    describe_hardware,
    keep_freed_memory,
    measure_first_layers_in_float32,
    train_with_quick_gradients,
)
from medvision.live import live_line, phase
from medvision.models import SizeLimit, with_normalization
from medvision.registry import Purpose, may_build, way_to_trust
from medvision.reports.findings import indicates_overfitting
from medvision.run.config.compatibility import (
    check_agreement,
    check_class_names,
    fill_in,
    fill_in_directions,
)
from medvision.run.config.processes import check_plan
from medvision.run.storage.resume import State, check_same_data, find_state
from medvision.run.storage.run_folder import RunFolder, is_further_process, is_own_run
from medvision.run.storage.test_ledger import check_ledger, ledger_note, note_test_evaluation
from medvision.run.storage.test_seal import sealed_note
from medvision.run.training.build import (
    build,
    build_data,
    build_metrics,
    build_task,
    measure,
    silence_libraries,
    validate_with_refit,
)
from medvision.run.training.data_audit import (
    KNOWN_IMAGES,
    audit_training,
    known_images_of,
    notes_with,
)
from medvision.run.training.fit import check_logger, fit, may_upload
from medvision.run.training.results import (
    check_finite,
    expected_parts,
    finish,
    finish_pruned,
    first_summary,
    greet,
)
from medvision.scores import headline_of
from medvision.task_definition import task_of
from medvision.types import Stage


@denormals_as_zero()
def run_experiment(
    cfg: DictConfig,
    *,
    experiment: str,
    folder: RunFolder,
    started_s: float,
    sealed_by: Sequence[str] = (),
) -> dict[str, Any]:
    """Train, validate and test as configured; write the run folder.

    All user errors that can be detected are raised before the folder is created. In a reopened
    folder the run is resumed.

    Args:
        cfg: Checked config.
        experiment: Name of the experiment.
        folder: Run folder.
        started_s: ``time.perf_counter()`` when the run was requested.
        sealed_by: Keys with which the command chooses hyper-parameters: if not empty, the test
            split is not used.

    Returns:
        Content of ``summary.json``.

    Raises:
        MedvisionError: If an input is invalid, or the fit failed.
    """
    silence_libraries()
    keep_freed_memory()
    with phase("reading the data"):
        data = build_data(cfg.data)
        data.prepare()
    with phase("auditing the data"):
        audited = None if is_further_process() else audit_training(data, mode=cfg.audit)
    data.notes = notes_with(data.notes, audited)
    if not folder.reopened:
        check_class_names(data.class_names)
    fill_in(cfg, data)
    live_line.show("building the network")
    state = find_state(folder.path) if folder.reopened else None
    config_file = str(folder.path / "config.yaml")
    # the first checkpoint ends the need for pretrained weights
    from_others = state is not None and (
        state.checkpoint is not None or not (is_further_process() or is_own_run(folder.path))
    )
    stored = config_file if from_others else None
    metrics = build_metrics(cfg, stored=stored)
    if not folder.reopened:
        fill_in_directions(cfg, metrics)
    seed_everything(cfg.seed, workers=True, verbose=False)
    with (
        nullcontext()
        if state is None or state.path is None
        else SizeLimit(state.path, where=config_file)
    ):
        network = build(cfg.model, stored=stored)
    model = with_normalization(network, in_channels=data.in_channels)
    if (note := _rebuilding_note(str(cfg.model._target_))) is not None:
        data.notes.append(note)
    plan = choose_plan(
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
        memory_format=cfg.trainer.memory_format,
        deterministic=cfg.trainer.deterministic,
    )
    check_plan(cfg, plan, data)
    data.fixed_shapes = plan.xla
    if plan.accelerator == "tpu":
        announce_host()
    if plan.cpu_bf16:
        train_with_quick_gradients(model)
        measure_first_layers_in_float32(model)
    checkpoint = None
    if cfg.ckpt_path is not None and (state is None or state.checkpoint is None):
        checkpoint = Path(cfg.ckpt_path).expanduser()  # until the run has its own checkpoint
    task = build_task(
        cfg, experiment, model, data, plan, checkpoint, metrics=metrics, stored=stored
    )
    check_agreement(cfg, data, task)
    if not sealed_by and data.tables["test"]:
        check_ledger(data.split_fingerprint("test"))
    if state is None or not state.is_over:
        check_logger(cfg, folder)

    if state is None:
        summary = _create_folder(cfg, plan, folder, experiment, model, data)
        if audited is not None:
            summary["audit"] = audited.summary
        if sealed_by:
            summary |= {"sealed": True, "sealed_by": list(sealed_by)}
    else:
        summary = _reopen_folder(folder, data, state)
    stages: tuple[Stage, ...] = ("val", "test")  # val first: it may determine the threshold
    stages = stages[:1] if sealed_by else stages
    parts = expected_parts(cfg.trainer, data, stages)
    summary["warnings"] = [*parts, *(w for w in summary["warnings"] if w not in parts)]
    if folder.exists:
        folder.write_summary(summary)
        greet(folder.path, data, model, summary)
        if state is not None:
            print_line(f"continuing {state.words}")
    if summary.get("sealed"):  # already printed before the first run
        summary["warnings"].append(sealed_note(summary["sealed_by"], folder.path))
    config = {"experiment": experiment, **_plain(cfg)}

    fitted = fit(
        cfg,
        plan,
        task,
        data,
        folder=folder,
        config=config,
        checkpoint=checkpoint,
        started_s=started_s,
        state=state,
    )
    if state is not None:
        known = summary["warnings"]
        summary["warnings"] = [*known, *(note for note in state.notes if note not in known)]
    if not folder.exists:  # the first process measures alone, like a run of one process
        return summary
    if fitted.pruned:
        return finish_pruned(folder, summary, fitted=fitted)
    best = torch.load(fitted.best.best_path, map_location="cpu", weights_only=True)
    task.load_state_dict(best["state_dict"])
    evaluation: Evaluation = (
        task_of(data.task)
        .load("evaluation")
        .of_run(folder=folder.path, data=data, options=config["task"])
    )
    evaluation.subgroups = data.subgroup_values()
    evaluation.near_duplicates = None if audited is None else audited.near_duplicates
    scores: dict[str, Score] = {}
    for stage in stages:
        if data.tables[stage]:
            scores |= measure(cfg, plan, task, data, evaluation, stage)
    known = {**summary, "metrics": scores, "best_epoch": fitted.best.best_epoch}
    if not plan.xla and indicates_overfitting(known, fitted.rows):
        refit = validate_with_refit(cfg, plan, task, data, root=folder.path)
        summary |= {"refit_batch_norm": refit} if refit else {}
    if evaluation.threshold is not None:
        _keep_threshold(fitted.best.best_path, evaluation.threshold)
    headline = f"test/{headline_of(data.task)}"
    if headline in scores:
        value: Any = scores[headline]
        summary["test_evaluations"] = note_test_evaluation(
            config=config,
            split_fingerprint=summary["dataset"]["test_fingerprint"],
            metric=headline,
            value=value,
            run=folder.path,
        )
        summary["warnings"] += filter(None, [ledger_note()])
    summary = finish(
        folder,
        summary,
        data=data,
        evaluation=evaluation,
        fitted=fitted,
        scores=scores,
        config=config,
        upload=may_upload(cfg),
    )
    check_finite(summary, folder.path)
    return summary


def _rebuilding_note(name: str) -> str | None:
    """Note on a network that no other command will be able to build again."""
    if may_build(name, Purpose.PREDICT) or way_to_trust(name, "--trust ") is not None:
        return None
    return (
        f"evaluate, predict and export will not rebuild the network, because {name} is a function"
        " of a library: call it in a class of your own package"
    )


def _keep_threshold(path: Path, threshold: float) -> None:
    """Write a threshold that was chosen on validation into its checkpoint."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if checkpoint["medvision"]["threshold"] == threshold:
        return
    checkpoint["medvision"]["threshold"] = threshold
    with atomic_path(path) as temporary:
        DirectFiles().save_checkpoint(checkpoint, temporary)


def _create_folder(
    cfg: DictConfig,
    plan: Plan,
    folder: RunFolder,
    experiment: str,
    model: nn.Module,
    data: ImageData,
) -> dict[str, Any]:
    """Create the folder of a run; return its summary before the first step.

    The resolved values of ``auto`` are stored in the config, so that it reproduces the run.
    """
    folder.create()
    with open_dict(cfg):
        cfg.run_dir = str(folder.path)
        cfg.trainer.accelerator = plan.accelerator
        cfg.trainer.precision = plan.precision
        cfg.trainer.memory_format = "channels_last" if plan.channels_last else "contiguous"
        cfg.trainer.deterministic = plan.deterministic
        if not data.tables["val"]:
            cfg.trainer.limit_val_batches = 0
    splits = data.table_of_splits()
    if folder.exists:
        folder.write_config({"experiment": experiment, **_plain(cfg)})
        folder.write_environment(describe_hardware())
        write_splits(folder.path / "splits.csv", splits)
        known = known_images_of(data)
        if known is not None:
            write_atomically(folder.path / KNOWN_IMAGES, known.to_bytes())
    return first_summary(experiment, cfg.seed, data, model, plan)


def _reopen_folder(folder: RunFolder, data: ImageData, state: State) -> dict[str, Any]:
    """Summary of an interrupted run, after checking that its data are unchanged.

    Raises:
        MedvisionError: If the data have changed.
    """
    summary = folder.read_summary()
    check_same_data(folder.path, data, summary)
    if folder.exists and (differs := folder.note_part(describe_hardware())):
        state.notes.append(
            f"the run continues with {'; '.join(differs)}: its scores may differ from those of an"
            " uninterrupted run"
        )
    return {**summary, "status": "running", "warnings": [*summary["warnings"], *state.notes]}


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved config as plain types."""
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    return resolved
