"""Check that data, model, loss and task of one run agree."""

import math
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

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
from medvision.types import STAGES, Stage


def fill_in(cfg: DictConfig, data: ImageData) -> None:
    """Fill in the config values that only the data determines: classes, balanced loss weights.

    Classes are written if the config of the data has keys for them.

    A monitor without a mode gets the mode of its score. Mixing with both alphas at 0 is removed.

    Raises:
        MedvisionError: If balanced weights are requested and the images have no classes.
    """
    with open_dict(cfg):
        if cfg.checkpoint.mode is None:
            cfg.checkpoint.mode = mode_of(str(cfg.checkpoint.monitor))
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
    if isinstance(task.model, Normalized):
        _try_network(task, data)
    channels = getattr(task.model, "in_channels", data.in_channels)
    if channels != data.in_channels:
        raise MedvisionError(
            f"the model expects images with {counted(channels, 'channel')}, the data has"
            f" {data.in_channels}",
            where="model.in_channels",
            hint="leave it out and set data.in_channels",
        )
    monitor = str(cfg.checkpoint.monitor)
    names = task.score_names()
    # the values that a user's callback logs are known only after the first epoch
    is_own = score_named(monitor, task.kind) is None and _has_own_callback(cfg)
    if monitor.partition("/")[2] not in names and not is_own:
        raise MedvisionError(
            f"unknown score {monitor} for this task",
            where="checkpoint.monitor",
            hint=nearest(monitor, [f"val/{name}" for name in names if "/" not in name]),
        )
    if isinstance(OmegaConf.select(cfg, "task.threshold"), str):
        _check_choice(data)
    if OmegaConf.select(cfg, "task.prevalence") is not None and len(data.class_names) != 2:
        raise MedvisionError(
            f"PPV and NPV at a prevalence require two classes, got {len(data.class_names)}",
            where="task.prevalence",
            hint="leave it out",
        )
    _try_loss(task)
    for stage in STAGES:
        _check_share(cfg, stage, num_images=len(data.tables[stage]), batch_size=data.batch_size)


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


def _try_network(task: Task, data: ImageData) -> None:
    """Check that a user's network takes the images and returns logits of the right shape."""
    size_px = data.image_size
    image = torch.zeros(1, data.in_channels, size_px, size_px, dtype=torch.uint8)
    try:
        with torch.no_grad():
            found = tuple(task.model.eval()(image).shape)
    except Exception as error:  # its layers may raise anything
        raise MedvisionError(
            f"{task.model.architecture} cannot take an image {tuple(image.shape)}:"
            f" {first_line(error)}",
            where="model",
            hint="fix the network, or change data.image_size or data.in_channels",
        ) from error
    finally:
        task.model.train()
    for logits, _ in task.loss_examples()[:1]:
        expected = (1, logits.shape[1], *(size_px for _ in logits.shape[2:]))
        if found != expected:
            raise MedvisionError(
                f"expected logits {expected} for one image, got {found} from"
                f" {task.model.architecture}",
                where="model",
                hint="two classes need one output channel, more classes one channel each",
            )


def _try_loss(task: Task) -> None:
    """Call the loss as training does: it may not accept these targets, or mixed ones."""
    for logits, target in task.loss_examples():
        try:
            task.loss(logits, target)
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
