"""Checkpoints: best and last epoch, within an epoch, on interruption; stop on a non-finite loss."""

import errno
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from typing_extensions import override

from medvision.callbacks.progressive_size import ProgressiveSize
from medvision.command_line import resuming
from medvision.errors import MedvisionError, Stopped, did_you_mean, first_line
from medvision.files import atomic_path, link_or_copy
from medvision.scores import mode_of, score_named
from medvision.types import Batch


class BestAndLast(Checkpoint):
    """Write ``last.ckpt`` after every epoch and ``best.ckpt`` after every better one.

    Lightning's ModelCheckpoint takes a first NaN for the best value, and leaves ``last.ckpt``
    outdated after an epoch that was not the best; here an undefined value is never the best. If no
    epoch had a defined value, the last epoch is used as the best and ``warning`` says so. The
    former ``last.ckpt`` is kept as ``previous.ckpt``, in case a file is damaged.

    Args:
        dirpath: Run folder; the files are in ``checkpoints/`` below it.
        monitor: Logged value that decides, such as ``val/dice``; never a test metric.
        mode: ``max`` if the largest value is the best, ``min`` if the smallest; None for the
            direction in the table of scores, or ``max`` for a score without a row there.

    Attributes:
        best_path: Path of the checkpoint of the best epoch.
        best_epoch: Epoch in ``best.ckpt``, counted from 0; None before the first.
        best_value: Its monitored value; None if the last epoch is used as the best.
        best_is_empty: True if it predicts nothing of what is labelled in validation. Such an epoch
            is the best only where every epoch does so, whatever the monitor says.
        best_is_preliminary: True if it ended with training images of reduced size, see
            ``ProgressiveSize``. Such an epoch is the best only until one of full size has ended.
        last_epoch: Last epoch that has ended.
        warning: Reason for using the last epoch as the best, if so.
    """

    HANDED_OVER: ClassVar = ("best_epoch", "best_value", "last_epoch", "warning")

    def __init__(
        self, *, dirpath: str, monitor: str, mode: Literal["max", "min"] | None = None
    ) -> None:
        self.folder = Path(dirpath) / "checkpoints"
        self.best_path, self.last_path = self.folder / "best.ckpt", self.folder / "last.ckpt"
        self.previous_path = self.folder / "previous.ckpt"  # the state before the last
        self.monitor, self.mode = monitor, mode or mode_of(monitor)
        self.best_epoch: int | None = None
        self.best_value: float | None = None
        self.best_is_empty = self.best_is_preliminary = False
        self.last_epoch: int | None = None
        self.warning: str | None = None
        self._record: tuple[int | None, float | None] | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None and score_named(self.monitor) is None:
            self._require_logged(trainer)
        is_empty = bool(
            getattr(pl_module, "predicts_nothing", lambda _: False)(trainer.callback_metrics)
        )
        is_preliminary = any(
            isinstance(callback, ProgressiveSize) and callback.is_reduced
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
        better = value is not None and self._is_better(
            float(value), is_empty=is_empty, is_preliminary=is_preliminary
        )
        if better and value is not None:
            self.best_epoch, self.best_value = trainer.current_epoch, float(value)
            self.best_is_empty, self.best_is_preliminary = is_empty, is_preliminary
        self.last_epoch = trainer.current_epoch
        with _plateaus_stepped(trainer):
            self.save(trainer)
        if better and trainer.is_global_zero:
            link_or_copy(self.last_path, self.best_path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle(writes=trainer.is_global_zero)

    def settle(self, *, writes: bool) -> None:
        """Use the last epoch if there is no best one.

        Args:
            writes: If True, this process writes ``best.ckpt``.
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
        """Write ``last.ckpt``, completely or not at all; must be called in every process.

        Raises:
            MedvisionError: If it cannot be written; the former file stays intact.
        """
        path = self.last_path
        writes = trainer.is_global_zero  # Lightning gathers in every process and writes in one
        try:
            with atomic_path(path) if writes else nullcontext(path) as temporary:
                trainer.save_checkpoint(temporary)
                if writes and path.exists():
                    link_or_copy(path, self.previous_path)
        except (OSError, RuntimeError) as fault:
            if not _is_about_files(fault):
                raise
            raise self._not_written(fault) from fault

    def continue_from(
        self, path: Path, checkpoint: Mapping[str, Any], best: Mapping[str, Any] | None
    ) -> list[str]:
        """Make ``best.ckpt`` consistent with the record of it before a run is resumed.

        The run may have ended after ``last.ckpt`` and before ``best.ckpt`` was written, or it
        resumes from an older state than that of ``best.ckpt``.

        Args:
            path: Checkpoint to resume from.
            checkpoint: Content of that checkpoint.
            best: Content of ``best.ckpt``; None if it is missing or damaged.

        Returns:
            Notes for the user.
        """
        known = checkpoint["callbacks"][self.state_key]
        epoch, value = known["best_epoch"], known["best_value"]
        if epoch is None:
            return []
        if checkpoint["epoch"] == known["last_epoch"] == epoch:  # this checkpoint is the best one
            if path != self.best_path:
                link_or_copy(path, self.best_path)
            return []
        if best is None:
            self._record = (None, None)
            return [f"best.ckpt of epoch {epoch + 1} is damaged: a later epoch will replace it"]
        there = best["callbacks"][self.state_key]
        if (there["best_epoch"], there["best_value"]) != (epoch, value):
            self._record = (there["best_epoch"], there["best_value"])
        return []

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "last_epoch": self.last_epoch,
            "best_is_empty": self.best_is_empty,
            "best_is_preliminary": self.best_is_preliminary,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A new run folder starts its own record: it has no file of the former best epoch.
        if self.best_path.exists():
            known = (state_dict["best_epoch"], state_dict["best_value"])
            self.best_epoch, self.best_value = self._record or known
            self.best_is_empty = state_dict.get("best_is_empty", False)
            self.best_is_preliminary = state_dict.get("best_is_preliminary", False)
        self.last_epoch = state_dict.get("last_epoch")

    def _require_logged(self, trainer: Trainer) -> None:
        """Refuse a monitored score that has no row and that no callback logs."""
        stage = self.monitor.partition("/")[0]
        logged = sorted(name for name in trainer.callback_metrics if name.startswith(f"{stage}/"))
        if logged:  # an epoch without validation logs none
            raise MedvisionError(
                f"{self.monitor} was not logged in epoch {trainer.current_epoch + 1}",
                where="checkpoint.monitor",
                hint=did_you_mean(
                    self.monitor, logged, otherwise="log it with pl_module.log in a callback"
                ),
            )

    def _is_better(
        self, value: float, *, is_empty: bool = False, is_preliminary: bool = False
    ) -> bool:
        if not math.isfinite(value):
            return False
        if self.best_value is None:
            return True
        faults = (is_empty, is_preliminary)
        if faults != (self.best_is_empty, self.best_is_preliminary):
            return faults < (self.best_is_empty, self.best_is_preliminary)
        return value > self.best_value if self.mode == "max" else value < self.best_value

    def _not_written(self, fault: Exception) -> MedvisionError:
        if isinstance(fault.__context__, OSError):  # PyTorch's message hides that of the disk
            fault = fault.__context__
        full = isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT)
        words = fault.strerror if isinstance(fault, OSError) else first_line(fault)
        what = "no space left on the disk" if full else str(words)
        kept = (
            "the previous one is intact" if self.last_path.exists() else "there is no previous one"
        )
        return MedvisionError(
            f"cannot write a checkpoint: {what}",
            where=str(self.last_path),
            hint=f"{kept}; {'free some space' if full else 'check the disk'}, then continue with"
            f" {resuming(self.folder.parent)}",
            exit_code=3,
        )


class DirectFiles(TorchCheckpointIO):
    """Write a checkpoint directly to its file, and flush it to disk.

    Lightning's own class makes two copies in memory and a third in the folder for temporary files,
    which it then moves.
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
    """Return True if a file could not be written; PyTorch raises an error of its own for this."""
    words = ("PytorchStreamWriter", "inline_container", "unexpected pos")
    return isinstance(fault, OSError) or any(word in str(fault) for word in words)


@contextmanager
def _plateaus_stepped(trainer: Trainer) -> Iterator[None]:
    """Step schedules that monitor a value for this epoch, only while its state is saved.

    Lightning steps them after the last hook of the epoch; a run resumed from a checkpoint of the
    epoch's end would never step them.
    """
    configs = [c for c in trainer.lr_scheduler_configs if c.reduce_on_plateau]
    due = [
        config
        for config in configs
        if config.interval == "epoch"
        and (trainer.current_epoch + 1) % config.frequency == 0
        and config.monitor in trainer.callback_metrics
    ]
    before = [deepcopy(config.scheduler.state_dict()) for config in due]
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    for config in due:
        trainer.lightning_module.lr_scheduler_step(
            config.scheduler, trainer.callback_metrics[str(config.monitor)]
        )
    try:
        yield
    finally:
        for config, state in zip(due, before, strict=True):
            config.scheduler.load_state_dict(state)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate


class FiniteLoss(Callback):
    """Stop the fit after a NaN or infinite training loss, before it is saved in a checkpoint.

    The losses are accumulated on the device and read every ``every_n_steps`` and at the end of each
    epoch, so that no step waits for them. All processes read at the same steps and stop together.

    Args:
        every_n_steps: Steps between two checks.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self.all_finite = torch.ones((), dtype=torch.bool)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.all_finite = torch.ones((), dtype=torch.bool, device=pl_module.device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        # One tensor from the first step to the last: a new one would be a new graph to XLA.
        self.all_finite = self.all_finite & torch.isfinite(outputs["loss"].detach())
        if trainer.is_last_batch or (batch_idx + 1) % self.every_n_steps == 0:
            self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Wait for the losses of this epoch so far; must be called in every process.

        Raises:
            MedvisionError: If one of them was NaN or infinite.
        """
        if not trainer.strategy.reduce_boolean_decision(bool(self.all_finite.cpu()), all=True):
            raise MedvisionError(
                f"the training loss became NaN or infinite in epoch {trainer.current_epoch + 1}",
                where="loss",
                hint="lower optimizer.lr, or set trainer.precision=32;"
                " earlier checkpoints are kept",
                exit_code=3,
            )


LOOK_S = 1.0
"""Interval at which the processes of a run check if one of them received a signal."""


class Interruption(Checkpoint):
    """End a fit on a signal, after saving its state, and save the state every few minutes.

    A state is saved after a step of the optimizer, when all of its changes are complete; in the
    last batch of an epoch and in validation, at the end of the epoch. Inherits from ``Checkpoint``
    only for Lightning's callback order: must be listed after the callback that saves the epochs.

    Args:
        requested: Returns the signal that requests the end, or None.
        checkpoints: Callback that saves the state.
        finite: Checked first: no state may be saved after a NaN or infinite loss.
        every_minutes: Time between two states within an epoch; None saves none.
    """

    def __init__(
        self,
        *,
        requested: Callable[[], int | None],
        checkpoints: BestAndLast,
        finite: FiniteLoss | None,
        every_minutes: float | None,
    ) -> None:
        self.requested, self.checkpoints, self.finite = requested, checkpoints, finite
        self.every_s = float("inf") if every_minutes is None else 60 * every_minutes
        self._saved_s = self._epoch_s = 0.0
        self._stride = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_s = self._epoch_s = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_s = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.is_last_batch or trainer.fit_loop._should_accumulate():
            return
        signum, is_due = self.requested(), time.monotonic() - self._saved_s > self.every_s
        if trainer.world_size > 1:
            if (batch_idx + 1) % self._stride:
                return
            signum, is_due = self._agree(trainer, signum, is_due)
            self._set_stride(trainer, batch_idx)
        if signum is None and not is_due:
            return
        if self.finite is not None:
            self.finite.check(trainer)
        self.checkpoints.save(trainer)
        self._saved_s = time.monotonic()
        if signum is not None:
            raise Stopped(signum)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_s = time.monotonic()
        signum = self.requested()
        if trainer.world_size > 1:
            signum, _ = self._agree(trainer, signum, False)
        if signum is not None:
            raise Stopped(signum)

    def _agree(self, trainer: Trainer, signum: int | None, is_due: bool) -> tuple[int | None, bool]:
        """Agree on a signal received by any process, or on a save due by the first one's clock."""
        decide = trainer.strategy.reduce_boolean_decision
        if decide(signum is not None, all=False):
            return signum or signal.SIGTERM, False
        return None, decide(is_due and trainer.is_global_zero, all=False)

    def _set_stride(self, trainer: Trainer, batch_idx: int) -> None:
        """Check about once a second, however long a step takes, and at the same steps in all."""
        step_s = (time.monotonic() - self._epoch_s) / (batch_idx + 1)
        stride = max(1, min(50, int(LOOK_S / max(step_s, 1e-3))))
        self._stride = trainer.strategy.broadcast(stride)
