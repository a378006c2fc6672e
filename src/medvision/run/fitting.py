"""Fit a task: the trainer, what watches it, and what is known when it ends."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from medvision.callbacks import BestAndLast, EpochLog, Handover, Throughput, XlaWatch
from medvision.data import ImageData
from medvision.hardware import REHEARSAL, Plan
from medvision.run.folder import RunFolder
from medvision.run.launch import attend, part
from medvision.run.parts import build, build_trainer
from medvision.tasks import Task
from medvision.types import MedvisionError

C = TypeVar("C", bound=Callback)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit leaves behind.

    Attributes:
        best: Knows the checkpoints.
        rows: Of ``metrics.csv``.
        timing: Of ``summary.json``.
        xla: Of ``summary.json``, where XLA compiled the steps.
    """

    best: BestAndLast
    rows: Sequence[Mapping[str, float | int | None]]
    timing: Mapping[str, float | None]
    xla: Mapping[str, Any] | None


def fit(
    cfg: DictConfig,
    plan: Plan,
    task: Task,
    data: ImageData,
    *,
    folder: RunFolder,
    config: Mapping[str, Any],
    checkpoint: Path | None,
    started_s: float,
) -> Fitted:
    """Train as the config says, in every process that takes part.

    Args:
        cfg: A checked config.
        plan: How the run computes.
        task: Trained in place.
        data: What it learns from.
        folder: Run folder.
        config: What loggers are told of the run.
        checkpoint: Where to go on from.
        started_s: ``time.perf_counter()`` at the start of the program.

    Raises:
        MedvisionError: If the fit fails for a reason that is known.
    """
    callbacks: list[Callback] = [build(node) for node in cfg.callbacks.values()]
    throughput, best = _only(callbacks, Throughput), _only(callbacks, BestAndLast)
    log = _only(callbacks, EpochLog)
    watch = XlaWatch(strict=plan.accelerator == REHEARSAL) if plan.xla else None
    callbacks += [] if watch is None else [watch]
    logger: Logger | None = build(cfg.logger)
    trainer = build_trainer(cfg, plan, callbacks=callbacks, logger=logger, root=folder.path)
    attend(trainer, folder)
    handover = Handover(folder.path) if _forks(trainer) else None
    if handover is not None:
        callbacks.append(handover)
        trainer.callbacks.append(handover)  # type: ignore[attr-defined]
    if logger is not None:
        logger.log_hyperparams(dict(config))
    fit_started_s = time.perf_counter()
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from stop
    except MedvisionError:
        if watch is not None and folder.exists:
            folder.write_summary({**folder.read_summary(), "xla": watch.summary()})
        raise
    if handover is not None:
        handover.take_over(callbacks)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    part(trainer)
    return Fitted(
        best=best,
        rows=log.rows,
        timing={
            "fit_s": time.perf_counter() - fit_started_s,
            "time_to_first_step_s": None
            if throughput.first_step_s is None
            else throughput.first_step_s - started_s,
            "train_images_per_s": throughput.images_per_s,
            "peak_memory_mb": throughput.peak_memory_mb,
        },
        xla=None if watch is None else watch.summary(),
    )


def _forks(trainer: Trainer) -> bool:
    """Whether the fit happens in copies of this process, as on all cores of a TPU."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def _only(callbacks: Sequence[Callback], kind: type[C]) -> C:
    found = [callback for callback in callbacks if isinstance(callback, kind)]
    if len(found) != 1:
        raise MedvisionError(
            f"expected one {kind.__name__}, got {len(found)}",
            where="callbacks",
            hint="start from callbacks=default",
        )
    return found[0]
