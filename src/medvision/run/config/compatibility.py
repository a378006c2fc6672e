"""Check that data, model, loss and task of one run agree."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn
from torchmetrics import Metric

from medvision.console import counted
from medvision.data import ImageData
from medvision.errors import MedvisionError, first_line
from medvision.files import starts_formula
from medvision.losses import balanced_weights
from medvision.models import Normalized
from medvision.run.config.hydra_errors import nearest
from medvision.scores import mode_of, score_named
from medvision.task_definition import task_of
from medvision.tasks import Task
from medvision.tasks.base import class_probabilities
from medvision.types import STAGES, Stage


def fill_in(cfg: DictConfig, data: ImageData) -> None:
    """Fill in the config values that only the data determines: classes, balanced loss weights.

    Classes are written if the config of the data has keys for them. Mixing with both alphas at 0 is
    removed.

    Raises:
        MedvisionError: If balanced weights are requested and the images have no classes.
    """
    with open_dict(cfg):
        for key, value in (
            ("num_classes", len(data.class_names)),
            ("class_names", list(data.class_names)),
        ):
            if key in cfg.data:
                cfg.data[key] = value
        if OmegaConf.select(cfg, "loss.class_weights") == "balanced":
            counts = data.class_counts()
            if counts is None:
                raise MedvisionError(
                    "balanced class weights require images with one class each",
                    where="loss.class_weights",
                    hint="give one weight per class",
                )
            cfg.loss.class_weights = balanced_weights(list(counts["train"].values()))
        mixing = OmegaConf.select(cfg, "task.mixing")
        if mixing is not None and not (mixing.mixup_alpha or mixing.cutmix_alpha):
            cfg.task.mixing = None


def _monitors(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Full name of every part of a config that monitors a value, and the part."""
    parts = [("checkpoint", cfg.checkpoint), ("scheduler", cfg.get("scheduler"))]
    parts += [(f"callbacks.{name}", node) for name, node in cfg.callbacks.items()]
    for name, node in parts:
        if isinstance(node, DictConfig) and isinstance(node.get("monitor"), str):
            yield name, node


def fill_in_directions(cfg: DictConfig, metrics: Mapping[str, Metric]) -> None:
    """Give every monitored value without a mode the direction of its score.

    Args:
        cfg: Changed in place.
        metrics: Metrics of the user's own, by name.

    Raises:
        MedvisionError: If a mode is given that contradicts the definition of the score, or none is
            given for a metric that does not say which values are better.
    """
    for part, node in _monitors(cfg):
        name = node.monitor.partition("/")[2]
        score, metric = score_named(node.monitor), metrics.get(name.partition("/")[0])
        known = None if score is None else score.mode
        if metric is not None and metric.higher_is_better is not None:
            known = "max" if metric.higher_is_better else "min"
        mode = node.get("mode")
        if mode is not None and known not in (None, mode):
            raise MedvisionError(
                f"{part}.mode={mode} contradicts {node.monitor}, of which"
                f" {'larger' if known == 'max' else 'smaller'} values are better",
                where=f"{part}.mode",
                hint="leave it out",
            )
        if mode is None and ("mode" in node or str(node.get("_target_")).endswith(STOPS)):
            if metric is not None and known is None:
                raise MedvisionError(
                    f"{type(metric).__name__} does not say which values of {name} are better",
                    where=f"{part}.mode",
                    hint="set it to max or min, or define higher_is_better in the class",
                )
            with open_dict(node):
                node.mode = known or mode_of(node.monitor)


STOPS = ".EarlyStopping"
"""Class whose default direction is not that of the score."""


def _check_monitors(cfg: DictConfig, data: ImageData, task: Task) -> None:
    """Check that every monitored value is logged; a schedule would fail after the first epoch."""
    names = task.score_names()
    for part, node in _monitors(cfg):
        monitor, where = str(node.monitor), f"{part}.monitor"
        stage, _, name = monitor.partition("/")
        # the values that a user's callback logs are known only after the first epoch
        is_own = score_named(monitor, task.kind) is None and _has_own_callback(cfg)
        if not is_own and (stage not in ("train", "val") or name not in names):
            known = [f"val/{name}" for name in names if "/" not in name]
            raise MedvisionError(
                f"unknown score {monitor} for this task", where=where, hint=nearest(monitor, known)
            )
        unmeasured = not data.tables["val"] or cfg.trainer.get("limit_val_batches") == 0
        if stage == "val" and unmeasured and not part.endswith("checkpoint"):
            raise MedvisionError(
                f"{monitor} is not measured, because the run has no validation images",
                where=where,
                hint=f"monitor train/{name}, or leave out {part}",
            )


def check_class_names(names: Sequence[str]) -> None:
    """Refuse names of classes that tables or the screen would not show as text.

    Raises:
        MedvisionError: If a name begins like a formula or contains a line break.
    """
    for name in names:
        if starts_formula(name) or "\n" in name:
            what, rule = (
                ("contains a line break", "contain a line break")
                if "\n" in name
                else ("would be a formula in a spreadsheet", "begin with =, +, - or @")
            )
            raise MedvisionError(
                f"the class name {name!r} {what}",
                where="data.class_names",
                hint=f"rename the class: its name must not {rule}",
            )


def fixed_threshold(cfg: DictConfig) -> float:
    """Threshold for training scores: that of the config, or 0.5 until one is chosen."""
    threshold = OmegaConf.select(cfg, "task.threshold", default=0.5)
    return 0.5 if isinstance(threshold, str) else float(threshold)


def check_agreement(cfg: DictConfig, data: ImageData, task: Task) -> None:
    """Check that the parts of a run fit together, before anything is written.

    Raises:
        MedvisionError: If the task and the data differ in kind, the model and the data differ in
            channels, the monitored score is not logged, a threshold or prevalence is set for data
            that does not support it, the loss does not fit the task, or a share of the batches is
            less than one batch.
    """
    if task.kind != data.task:
        raise MedvisionError(
            f"{type(task).__name__} expects {task.kind} data, got {data.task} data",
            where="task, data",
            hint=f"start from an experiment with task={data.task}",
        )
    num_logits = _try_network(task, data)
    channels = getattr(task.model, "in_channels", data.in_channels)
    if channels != data.in_channels:
        raise MedvisionError(
            f"the model expects images with {counted(channels, 'channel')}, the data has"
            f" {data.in_channels}",
            where="model.in_channels",
            hint="leave it out and set data.in_channels",
        )
    _check_monitors(cfg, data, task)
    if isinstance(OmegaConf.select(cfg, "task.threshold"), str):
        _check_choice(data)
    if OmegaConf.select(cfg, "task.prevalence") is not None and len(data.class_names) != 2:
        raise MedvisionError(
            f"PPV and NPV at a prevalence require two classes, got {len(data.class_names)}",
            where="task.prevalence",
            hint="leave it out",
        )
    _try_loss(task, num_logits)
    _try_metrics(task)
    for stage in STAGES:
        _check_share(cfg, stage, num_images=len(data.tables[stage]), batch_size=data.batch_size)
    if (note := _few_steps(cfg, data)) is not None:
        data.notes.append(note)


def _few_steps(cfg: DictConfig, data: ImageData) -> str | None:
    """Note on gradients that are accumulated over more batches than an epoch has."""
    several, devices = int(cfg.trainer.accumulate_grad_batches), cfg.trainer.get("devices")
    rows = len(data.tables["train"]) // (devices if isinstance(devices, int) else 1)
    batches: float = max(1, rows // data.batch_size)
    if (limit := cfg.trainer.get("limit_train_batches")) is not None:
        batches = min(batches, limit) if isinstance(limit, int) else limit * batches
    if several <= batches or several == 1:
        return None
    return (
        f"trainer.accumulate_grad_batches={several} is more than the"
        f" {counted(int(batches), 'batch', 'batches')} of an epoch: one step an epoch"
    )


def _has_own_callback(cfg: DictConfig) -> bool:
    """Return True if any callback comes from neither medvision nor Lightning."""
    packages = {str(node._target_).partition(".")[0] for node in cfg.callbacks.values() if node}
    return bool(packages - {"medvision", "pytorch_lightning", "lightning"})


def _check_share(cfg: DictConfig, stage: Stage, *, num_images: int, batch_size: int) -> None:
    """Refuse a share of less than one batch; Lightning would fail during the run."""
    share = cfg.trainer.get(f"limit_{stage}_batches")
    whole = num_images // batch_size if stage == "train" else math.ceil(num_images / batch_size)
    whole = max(1, whole)
    if isinstance(share, float) and num_images and 0 < share * whole < 1:
        raise MedvisionError(
            f"{share} of {counted(whole, 'batch', 'batches')} is less than one batch",
            where=f"trainer.limit_{stage}_batches",
            hint="give a number of batches, such as 1, or a larger fraction",
        )


def _try_network(task: Task, data: ImageData) -> int | None:
    """Check that a network takes the images and returns logits; return their number.

    The networks of this package are tried only where they could fail: on batches of one image.

    Raises:
        MedvisionError: If the network fails, or returns anything else.
    """
    rows = min(data.batch_size, len(data.tables["train"]), 2)
    is_own = isinstance(task.model, Normalized)
    name = getattr(task.model, "architecture", type(task.model).__name__)
    expected = [logits.shape for logits, _ in task.loss_examples()[:1]]
    size_px = data.image_size
    num_logits = None
    # in evaluation a network takes a single image; in training some layers need more values
    for training, count in ([(False, 1)] if is_own else []) + (
        [(True, rows)] if is_own or rows == 1 else []
    ):
        image = torch.zeros(count, data.in_channels, size_px, size_px, dtype=torch.uint8)
        try:
            with torch.no_grad(), _undisturbed(task.model):
                found: Any = task.model.train(training)(image)
        except Exception as error:  # its layers may raise anything
            few = training and count == 1
            raise MedvisionError(
                f"{name} cannot {'be trained on' if training else 'take'} an image"
                f" {tuple(image.shape)}: {first_line(error)}",
                where="data.batch_size" if few else "model",
                hint="use data.batch_size=2 or more, and as many training images"
                if few
                else "fix the network, or change data.image_size or data.in_channels",
            ) from error
        for wanted in expected:
            num_logits = _check_logits(found, wanted, count, size_px, name=name, training=training)
    return num_logits


def _check_logits(
    found: Any, wanted: torch.Size, count: int, size_px: int, *, name: str, training: bool
) -> int:
    """Check the output for ``count`` images; return the number of logits."""
    allowed = (1, 2) if wanted[1] == 1 else (wanted[1],)
    shapes = [(count, number, *(size_px for _ in wanted[2:])) for number in allowed]
    while_training = " in training" if training else ""
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else None
    if shape not in shapes:
        raise MedvisionError(
            f"expected logits {' or '.join(map(str, shapes))} for {counted(count, 'image')}, got"
            f" {shape or f'a {type(found).__name__}'} from {name}{while_training}",
            where="model",
            hint="two classes need one or two output channels, more classes one channel each",
        )
    return shape[1]


def _try_metrics(task: Task) -> None:
    """Update each of the user's metrics as training does, on an image of every class."""
    num_classes = len(task.class_names)
    for logits, target in task.loss_examples()[:1]:
        labels = torch.arange(target.numel()).reshape(target.shape) % num_classes
        for name, metric in task.own_metrics_of("val").items():
            try:
                with warnings.catch_warnings():  # about the example
                    warnings.simplefilter("ignore")
                    tried = metric.clone()
                    tried.update(class_probabilities(logits), labels)
                    task.scalars({name: tried.compute()})
            except MedvisionError:
                raise
            except Exception as error:  # metrics raise various types
                raise MedvisionError(
                    f"{type(metric).__name__} does not accept probabilities"
                    f" {tuple(class_probabilities(logits).shape)} and targets"
                    f" {tuple(labels.shape)}: {first_line(error)}",
                    where=f"metrics.{name}",
                    hint="for class indices instead of probabilities wrap it in"
                    " medvision.metrics.OfClasses",
                ) from error


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a network, such as running means, its mode and the random numbers."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, value in before:
            buffer.copy_(value)


def _try_loss(task: Task, num_logits: int | None) -> None:
    """Call the loss as training does: it may not accept these targets, or mixed ones."""
    for logits, target in task.loss_examples():
        if num_logits is not None:
            logits = logits[:, :1].repeat_interleave(num_logits, 1)
        try:
            loss = task.loss(logits, target)
        except MedvisionError:
            raise
        except Exception as error:  # losses of torch or of the user raise various types
            fitting = ", ".join(f"loss={name}" for name in task_of(task.kind).losses)
            raise MedvisionError(
                f"{type(task.loss).__name__} does not accept the logits {tuple(logits.shape)} and"
                f" targets {tuple(target.shape)} of {task.kind}: {first_line(error)}",
                where="loss",
                hint=f"use {fitting}, or a loss for these shapes" if fitting else None,
            ) from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise MedvisionError(
                f"expected a scalar from {type(task.loss).__name__}, got {got}",
                where="loss",
                hint="take the mean over images and pixels",
            )


def _check_choice(data: ImageData) -> None:
    if len(data.class_names) != 2:
        raise MedvisionError(
            f"choosing a threshold requires two classes, got {len(data.class_names)}",
            where="task.threshold",
            hint="leave it at 0.5",
        )
    present = {sample.target for sample in data.tables["val"]}
    if len(present) < 2:
        raise MedvisionError(
            f"choosing a threshold requires validation images of both classes, got {len(present)}",
            where="task.threshold",
            hint="raise data.val_fraction, or set the threshold to a number",
        )
