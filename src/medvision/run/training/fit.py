"""Fit a task: callbacks, trainer, and the result."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from medvision.callbacks import (
    BestAndLast,
    EpochLog,
    ExactState,
    FiniteLoss,
    Handover,
    Interruption,
    Pruning,
    Throughput,
    TrackedPictures,
    XlaWatch,
)
from medvision.callbacks.checkpoints import DirectFiles
from medvision.callbacks.trackers import check_start, name_of_run
from medvision.data import ImageData
from medvision.errors import MedvisionError
from medvision.hardware import REHEARSAL, Plan
from medvision.registry import KEYS, OF_LOGGERS
from medvision.run.processes.launcher import Launcher, supervise
from medvision.run.processes.signals import after_the_step, default_signals
from medvision.run.storage.resume import State
from medvision.run.storage.run_folder import RunFolder, is_further_process
from medvision.run.storage.test_seal import trial_of
from medvision.run.training.build import build, build_trainer
from medvision.search.study import JOURNAL
from medvision.tasks import Task

C = TypeVar("C", bound=Callback)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Result of a fit.

    Attributes:
        best: Callback that holds the checkpoints.
        rows: Rows of ``metrics.csv``.
        timing: Section ``timing`` of ``summary.json``.
        xla: Section ``xla`` of ``summary.json``, if XLA compiled the steps.
        pruned: True if a search stopped the fit early.
        logger: Logger of the fit; None if there is none, or if the fit had ended before.
    """

    best: BestAndLast
    rows: Sequence[Mapping[str, float | int | None]]
    timing: Mapping[str, float | None]
    xla: Mapping[str, Any] | None
    pruned: bool = False
    logger: Logger | None = None


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
    state: State | None = None,
) -> Fitted:
    """Train as configured, in every process of the run.

    Args:
        cfg: Checked config.
        plan: Hardware plan.
        task: Trained in place.
        data: Training and validation data.
        folder: Run folder.
        config: Config passed to the loggers.
        checkpoint: Checkpoint to start from.
        started_s: ``time.perf_counter()`` when the run was requested.
        state: State of an interrupted run to resume from.

    Raises:
        MedvisionError: If the fit fails for a known reason.
        Stopped: If a signal ended the fit; its state is saved, unless there was a second signal.
    """
    nodes = [node for node in cfg.callbacks.values() if node is not None]
    callbacks: list[Callback] = [build(node) for node in nodes]
    best = _only(callbacks, BestAndLast)
    if state is not None and state.path is not None and state.checkpoint is not None:
        if folder.exists:
            state.notes.extend(best.continue_from(state.path, state.checkpoint, state.best))
        if state.is_over:
            for callback in callbacks:
                if callback.state_key in state.checkpoint["callbacks"]:
                    callback.load_state_dict(state.checkpoint["callbacks"][callback.state_key])
            best.settle(writes=folder.exists)
            return _fitted(callbacks, best, None, None)
        checkpoint = state.path
    watch = XlaWatch(strict=plan.accelerator == REHEARSAL) if plan.xla else None
    callbacks += [ExactState()] if watch is None else [ExactState(), watch]
    search = folder.path.parent
    if trial_of(cfg) is not None and (search / JOURNAL).exists():
        callbacks.append(
            Pruning(
                folder=search,
                trial=int(cfg.sweep.trial),
                metric=str(cfg.sweep.metric),
                pruner=cfg.sweep.pruner,
                startup_trials=int(cfg.sweep.startup_trials),
                warmup_epochs=int(cfg.sweep.warmup_epochs),
                epoch_log=_only(callbacks, EpochLog),
            )
        )
    logger = build_logger(cfg, folder)
    every = OmegaConf.select(cfg, "logger.pictures_every_n_epochs")
    if logger is not None and every is not None:
        mark = " (synthetic data)" if data.synthetic else ""
        callbacks.append(
            TrackedPictures(every_n_epochs=int(every), upload=may_upload(cfg), mark=mark)
        )
    with after_the_step() as requested:
        callbacks.append(
            Interruption(
                requested=requested,
                checkpoints=best,
                finite=next((c for c in callbacks if isinstance(c, FiniteLoss)), None),
                every_minutes=OmegaConf.select(cfg, "checkpoint.every_minutes"),
            )
        )
        trainer = build_trainer(cfg, plan, callbacks=callbacks, logger=logger, root=folder.path)
        if not plan.xla:  # tensors of XLA are moved to the CPU first
            trainer.strategy.checkpoint_io = DirectFiles()
        supervise(trainer, folder)
        # the fit runs in forked processes, as on all cores of a TPU
        forks = isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
        handover = Handover(folder.path) if forks else None
        if handover is not None:
            callbacks.append(handover)
            trainer.callbacks.append(handover)  # type: ignore[attr-defined]
        if logger is not None:
            logger.log_hyperparams(dict(config))
        try:
            with default_signals() if forks else nullcontext():
                trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except MedvisionError:
            if watch is not None and folder.exists:
                folder.write_summary({**folder.read_summary(), "xla": watch.summary()})
            raise
        if handover is not None:
            handover.take_over(callbacks)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if isinstance(trainer.strategy.launcher, Launcher):
            trainer.strategy.launcher.wait()
    return _fitted(callbacks, best, watch, started_s, logger)


def build_logger(cfg: DictConfig, folder: RunFolder) -> Logger | None:
    """Logger of the run, named after the run folder unless the config names it."""
    given: Any = OmegaConf.to_container(cfg.logger, resolve=True)
    options = {key: value for key, value in given.items() if key not in OF_LOGGERS}
    named = name_of_run(str(given["_target_"]), "/".join(folder.path.absolute().parts[-2:]))
    return build(OmegaConf.create({**named, **options}))


def check_logger(cfg: DictConfig, folder: RunFolder) -> None:
    """Check that the logger can start, where medvision knows how; the first process does.

    Raises:
        MedvisionError: If it cannot.
    """
    planned: Any = OmegaConf.merge(cfg, {"run_dir": str(folder.path)})
    known = str(OmegaConf.select(cfg, "logger._target_")) in KEYS
    if known and not is_further_process():
        logger = build_logger(planned, folder)
        assert logger is not None, "its class is known"
        check_start(logger, folder.path)


def may_upload(cfg: DictConfig) -> bool:
    """Return True if pictures and files may leave this machine."""
    return bool(OmegaConf.select(cfg, "logger.upload", default=False))


def _fitted(
    callbacks: Sequence[Callback],
    best: BestAndLast,
    watch: XlaWatch | None,
    started_s: float | None,
    logger: Logger | None = None,
) -> Fitted:
    throughput = _only(callbacks, Throughput)
    first_step_s = throughput.first_step_s
    waited = None if first_step_s is None or started_s is None else first_step_s - started_s
    return Fitted(
        best=best,
        rows=_only(callbacks, EpochLog).rows,
        timing={
            "fit_s": throughput.fit_s,
            "time_to_first_step_s": waited,
            "train_images_per_s": throughput.images_per_s,
            "peak_memory_mb": throughput.peak_memory_mb,
        },
        xla=None if watch is None else watch.summary(),
        pruned=any(isinstance(c, Pruning) and c.pruned for c in callbacks),
        logger=logger,
    )


def _only(callbacks: Sequence[Callback], kind: type[C]) -> C:
    found = [callback for callback in callbacks if isinstance(callback, kind)]
    if len(found) != 1:
        raise MedvisionError(
            f"expected one {kind.__name__}, got {len(found)}",
            where="callbacks",
            hint="start from callbacks=default",
        )
    return found[0]
