"""Keep the best and the last epoch, and what there is of one that is not finished."""

import errno
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from typing_extensions import override

from medvision.files import link_or_copy
from medvision.types import MedvisionError


class BestAndLast(Checkpoint):
    """Write ``last.ckpt`` after every epoch and ``best.ckpt`` after every better one.

    Lightning's ModelCheckpoint takes a first NaN for the best value, and leaves ``last.ckpt``
    behind where an epoch was not the best; here an undefined value is never the best. When
    no epoch had a defined value, best falls back to last and ``warning`` says so. What was in
    ``last.ckpt`` before is kept in ``previous.ckpt``, in case a file gets damaged.

    Args:
        dirpath: Run folder; the files are in ``checkpoints/`` below it.
        monitor: Logged value that decides, such as ``val/dice``; never a test metric.
        mode: Whether the largest or the smallest is the best.

    Attributes:
        best_epoch: Epoch in ``best.ckpt``, counted from 0; None before the first.
        best_value: Its monitored value; None where best fell back to last.
        last_epoch: Last epoch that has ended.
        warning: Why best is the last epoch, where it is.
    """

    HANDED_OVER: ClassVar = ("best_epoch", "best_value", "last_epoch", "warning")

    def __init__(self, *, dirpath: str, monitor: str, mode: Literal["max", "min"]) -> None:
        self.folder = Path(dirpath) / "checkpoints"
        self.monitor, self.mode = monitor, mode
        self.best_epoch: int | None = None
        self.best_value: float | None = None
        self.last_epoch: int | None = None
        self.warning: str | None = None
        self._record: tuple[int | None, float | None] | None = None

    @property
    def best_path(self) -> Path:
        """Where the best epoch is kept."""
        return self.folder / "best.ckpt"

    @property
    def last_path(self) -> Path:
        """Where the last state is kept."""
        return self.folder / "last.ckpt"

    @property
    def previous_path(self) -> Path:
        """Where the state before the last is kept."""
        return self.folder / "previous.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        better = value is not None and self._is_better(float(value))
        if better and value is not None:
            self.best_epoch, self.best_value = trainer.current_epoch, float(value)
        self.last_epoch = trainer.current_epoch
        with _plateaus_told(trainer):
            self.save(trainer)
        if better and trainer.is_global_zero:
            link_or_copy(self.last_path, self.best_path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle(writes=trainer.is_global_zero)

    def settle(self, *, writes: bool) -> None:
        """Choose the last epoch where none was the best.

        Args:
            writes: Whether this process may write ``best.ckpt``.
        """
        if self.best_epoch is None and self.last_epoch is not None:
            self.best_epoch = self.last_epoch
            self.warning = (
                f"{self.monitor} was undefined in every epoch:"
                " best.ckpt holds the last epoch, not the best one"
            )
            if writes:
                link_or_copy(self.last_path, self.best_path)

    def save(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``, whole or not at all; to be called in every process.

        Raises:
            MedvisionError: If it cannot be written; what was there before is still there.
        """
        path = self.last_path
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                if path.exists():
                    link_or_copy(path, self.previous_path)
                temporary.replace(path)
        except (OSError, RuntimeError) as fault:
            if not _is_about_files(fault):
                raise
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._not_written(fault) from fault

    def go_on(
        self, path: Path, checkpoint: Mapping[str, Any], best: Mapping[str, Any] | None
    ) -> list[str]:
        """Make ``best.ckpt`` and the record of it agree, before a run goes on.

        The run may have ended after ``last.ckpt`` and before ``best.ckpt``, or it goes on from an
        older state than the one that is in ``best.ckpt``.

        Args:
            path: The checkpoint that it goes on from.
            checkpoint: What that one holds.
            best: What ``best.ckpt`` holds; None where it is missing or damaged.

        Returns:
            What the user should know.
        """
        known = checkpoint["callbacks"][self.state_key]
        epoch, value = known["best_epoch"], known["best_value"]
        if epoch is None:
            return []
        if checkpoint["epoch"] == known["last_epoch"] == epoch:  # it is the best one itself
            if path != self.best_path:
                link_or_copy(path, self.best_path)
            return []
        if best is None:
            self._record = (None, None)
            return [f"best.ckpt, of epoch {epoch + 1}, is damaged: a later one takes its place"]
        there = best["callbacks"][self.state_key]
        if (there["best_epoch"], there["best_value"]) != (epoch, value):
            self._record = (there["best_epoch"], there["best_value"])
        return []

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "last_epoch": self.last_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A new run folder starts its own record: it has no file of the old best epoch.
        if self.best_path.exists():
            known = (state_dict["best_epoch"], state_dict["best_value"])
            self.best_epoch, self.best_value = self._record or known
        self.last_epoch = state_dict.get("last_epoch")

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best_value is None:
            return True
        return value > self.best_value if self.mode == "max" else value < self.best_value

    def _not_written(self, fault: Exception) -> MedvisionError:
        if isinstance(fault.__context__, OSError):  # PyTorch's own words hide what the disk said
            fault = fault.__context__
        full = isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT)
        words = fault.strerror if isinstance(fault, OSError) else str(fault).splitlines()[0]
        what = "no space left on the disk" if full else str(words)
        kept = "the checkpoint of before is intact" if self.last_path.exists() else "there is none"
        return MedvisionError(
            f"cannot write a checkpoint: {what}",
            where=str(self.last_path),
            hint=f"{kept}; {'free some space' if full else 'see to the disk'}, then go on with"
            f" python train.py resume={self.folder.parent}",
            exit_code=3,
        )


class DirectFiles(TorchCheckpointIO):
    """Write a checkpoint straight to its file, and wait until the disk has it.

    Lightning's own makes two copies of it in memory, and a third in the folder for temporary
    files, before it moves that one.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with Path(path).open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())


def _is_about_files(fault: Exception) -> bool:
    """Whether a file could not be written; PyTorch says so in an error of its own."""
    words = ("PytorchStreamWriter", "inline_container", "unexpected pos")
    return isinstance(fault, OSError) or any(word in str(fault) for word in words)


@contextmanager
def _plateaus_told(trainer: Trainer) -> Iterator[None]:
    """Let schedules that watch a value know of this epoch, as long as its state is saved.

    Lightning tells them after the last hook of the epoch; a run that goes on from a checkpoint of
    its end would never tell them.
    """
    configs = [c for c in trainer.lr_scheduler_configs if c.reduce_on_plateau]
    told = [
        config
        for config in configs
        if config.interval == "epoch"
        and (trainer.current_epoch + 1) % config.frequency == 0
        and config.monitor in trainer.callback_metrics
    ]
    before = [deepcopy(config.scheduler.state_dict()) for config in told]
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    for config in told:
        trainer.lightning_module.lr_scheduler_step(
            config.scheduler, trainer.callback_metrics[str(config.monitor)]
        )
    try:
        yield
    finally:
        for config, state in zip(told, before, strict=True):
            config.scheduler.load_state_dict(state)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
