"""Build the parts of a run, fit, test the best checkpoint, write the run folder."""

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything
from torch import nn

from medvision.callbacks import BestAndLast
from medvision.callbacks.checkpoints import DirectFiles
from medvision.data import ImageData
from medvision.evaluation import Evaluation, Score
from medvision.files import atomic_path
from medvision.hardware import (
    Plan,
    announce_host,
    choose_plan,
    keep_freed_memory,
    measure_first_layers_in_float32,
    train_with_quick_gradients,
)
from medvision.models import (
    count_parameters,
    is_depthwise,
    load_weights_strict,
    with_normalization,
)
from medvision.run.config.compatibility import check_agreement, fill_in, fixed_threshold
from medvision.run.config.processes import check_plan
from medvision.run.storage.resume import find_state
from medvision.run.storage.run_folder import RunFolder, is_further_process
from medvision.run.storage.test_ledger import check_ledger, note_test_evaluation
from medvision.run.training.build import (
    build,
    build_trainer,
    quieten,
    read_checkpoint,
)
from medvision.run.training.data_audit import audit_training, notes_with
from medvision.run.training.fit import fit
from medvision.run.training.results import finish, finish_pruned
from medvision.run.training.start import open_again, open_folder, plain, starting_point
from medvision.task_definition import task_of
from medvision.tasks import Task
from medvision.types import Stage


def run_experiment(
    cfg: DictConfig,
    *,
    experiment: str,
    folder: RunFolder,
    started_s: float,
    sealed_by: Sequence[str] = (),
) -> dict[str, Any]:
    """Train, validate and test what the config says; write the run folder.

    Everything a user can have got wrong is found before the folder is made. In a folder that was
    opened again the run goes on where it was.

    Args:
        cfg: A checked config.
        experiment: Its name.
        folder: Where the run goes.
        started_s: ``time.perf_counter()`` when the run was asked for.
        sealed_by: The keys by which the command chooses hyper-parameters: the test split is not
            touched where there are any.

    Returns:
        What ``summary.json`` holds.

    Raises:
        MedvisionError: If something the user gave cannot be used, or the fit failed.
    """
    quieten()
    keep_freed_memory()
    data: ImageData = build(cfg.data)
    data.prepare()
    audited = None if is_further_process() else audit_training(data, mode=cfg.audit)
    data.notes = notes_with(data.notes, audited)
    fill_in(cfg, data)
    seed_everything(cfg.seed, workers=True, verbose=False)
    model = with_normalization(build(cfg.model), in_channels=data.in_channels)
    plan = choose_plan(
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
        memory_format=cfg.trainer.memory_format,
        deterministic=cfg.trainer.deterministic,
        network="depthwise_encoder" if is_depthwise(model) else "dense",
    )
    check_plan(cfg, plan, data)
    data.fixed_shapes = plan.xla
    if plan.accelerator == "tpu":
        announce_host()
    if plan.quick_gradients:
        train_with_quick_gradients(model)
    if plan.float32_first_layers:
        measure_first_layers_in_float32(model)
    state = find_state(folder.path) if folder.reopened else None
    checkpoint = starting_point(cfg, state)
    task = _build_task(cfg, experiment, model, data, plan, checkpoint)
    check_agreement(cfg, data, task)
    if not sealed_by:
        check_ledger()

    if state is None:
        summary = open_folder(
            cfg,
            plan,
            folder,
            experiment=experiment,
            model=model,
            data=data,
            audited=audited,
            sealed_by=sealed_by,
        )
    else:
        summary = open_again(folder, data, model, state)
    config = {"experiment": experiment, **plain(cfg)}

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
        told = summary["warnings"]
        summary["warnings"] = [*told, *(note for note in state.notes if note not in told)]
    if not folder.exists:  # the first process measures alone, as a run of one process does
        return summary
    if fitted.pruned:
        return finish_pruned(folder, summary, fitted=fitted)
    _load_best(task, fitted.best)
    definition = task_of(data.task)
    evaluation: Evaluation = definition.load("evaluation").of_run(
        folder=folder.path, data=data, options=config["task"]
    )
    evaluation.near_duplicates = None if audited is None else audited.near_duplicates
    scores: dict[str, Score] = {}
    stages: tuple[Stage, ...] = ("val", "test")  # in this order: a threshold may come from val
    for stage in stages[:1] if sealed_by else stages:
        if data.tables[stage]:
            scores |= measure(cfg, plan, task, data, evaluation, stage)
    _keep_threshold(fitted.best.best_path, evaluation.threshold)
    headline = f"test/{definition.headline}"
    if headline in scores:
        value: Any = scores[headline]
        summary["test_evaluations"] = note_test_evaluation(
            config=config,
            split_fingerprint=summary["dataset"]["test_fingerprint"],
            metric=headline,
            value=value,
            run=folder.path,
        )
    return finish(
        folder,
        summary,
        evaluation=evaluation,
        fitted=fitted,
        scores=scores,
    )


def _build_task(
    cfg: DictConfig,
    experiment: str,
    model: nn.Module,
    data: ImageData,
    plan: Plan,
    checkpoint: Path | None,
) -> Task:
    optimizer = build(cfg.optimizer)
    if plan.fused_optimizer and "fused" in inspect.signature(optimizer.func).parameters:
        optimizer = functools.partial(optimizer, fused=True)
    metadata = {
        "format": 1,
        "task": data.task,
        "model": _plain_model(cfg, model),
        "architecture": getattr(model, "architecture", type(model).__name__),
        "num_parameters": count_parameters(model),
        **_normalisation(model),
        "class_names": data.class_names,
        "image_size": data.image_size,
        "in_channels": data.in_channels,
        "eval_transforms": OmegaConf.to_container(cfg.data.eval_transforms, resolve=True),
        "threshold": fixed_threshold(cfg),
        "value_range": None if data.value_range is None else list(data.value_range),
        "precision": plan.precision,
        "experiment": experiment,
        "dataset": data.name,
        "synthetic": data.synthetic,
    }
    task: Task = build(
        cfg.task,
        model=model,
        loss=build(cfg.loss),
        optimizer=optimizer,
        scheduler=build(cfg.scheduler),
        metadata=metadata,
    )
    if checkpoint is not None:
        state = read_checkpoint(checkpoint, max_epochs=cfg.trainer.max_epochs)
        load_weights_strict(task, state["state_dict"], where=f"ckpt_path={checkpoint}")
    return task.to(memory_format=torch.channels_last) if plan.channels_last else task


def _plain_model(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Name and arguments that build the network again, ready for its tensors.

    Not under ``_target_``, which Hydra would call.
    """
    arguments: Any = OmegaConf.to_container(cfg.model, resolve=True)
    name = arguments.pop("_target_")
    if "weights" in arguments:
        arguments["weights"] = "none"
    if "name" in arguments:  # not always the network that was asked for is built
        arguments["name"] = getattr(model, "name", arguments["name"])
    return {"name": name, "arguments": arguments}


def _normalisation(model: nn.Module) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, as the network subtracts and divides."""
    buffers = dict(model.named_buffers())
    return {key: buffers[f"normalize.{key}"].flatten().tolist() for key in ("mean", "std")}


def _load_best(task: Task, best: BestAndLast) -> None:
    checkpoint = torch.load(best.best_path, map_location="cpu", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])


def _keep_threshold(path: Path, threshold: float) -> None:
    """Write a threshold that was chosen on validation into the checkpoint it belongs to."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if checkpoint["medvision"]["threshold"] == threshold:
        return
    checkpoint["medvision"]["threshold"] = threshold
    with atomic_path(path) as temporary:
        DirectFiles().save_checkpoint(checkpoint, temporary)


def measure(
    cfg: DictConfig, plan: Plan, task: Task, data: ImageData, evaluation: Evaluation, stage: Stage
) -> dict[str, Score]:
    """Measure the weights that the task holds on one split, and write its predictions."""
    data.fixed_shapes = plan.xla
    watcher = evaluation.watch(stage)
    trainer = build_trainer(
        cfg, plan, callbacks=[watcher], logger=None, root=evaluation.folder, alone=True
    )
    go_through = {"val": trainer.validate, "test": trainer.test}[stage]
    go_through(task, datamodule=data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return evaluation.scores(stage, logged)
