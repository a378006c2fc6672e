"""Save in the middle of an epoch: when the program is asked to end, and now and then."""

import signal
import time
from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medvision.callbacks.checkpoints import BestAndLast
from medvision.callbacks.finite_loss import FiniteLoss
from medvision.types import Stopped

LOOK_S = 1.0
"""How often the processes of a run ask each other whether one of them was told to end."""


class Interruption(Checkpoint):
    """End a fit that was asked to end, once its state is saved, and save it every few minutes.

    A state is saved after a step of the optimizer, when everything it changed has changed; in the
    last batch of an epoch and in validation, the end of the epoch is waited for. A ``Checkpoint``
    by Lightning's order only: to be listed after the one that saves the epochs.

    Args:
        asked: The signal that asks the program to end; None as long as there is none.
        checkpoints: Saves.
        finite: Asked first: no state may be saved after a loss that was no number.
        every_minutes: Time between two states in the middle of an epoch; None saves none there.
    """

    def __init__(
        self,
        *,
        asked: Callable[[], int | None],
        checkpoints: BestAndLast,
        finite: FiniteLoss | None,
        every_minutes: float | None,
    ) -> None:
        self.asked, self.checkpoints, self.finite = asked, checkpoints, finite
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
        signum, is_due = self.asked(), time.monotonic() - self._saved_s > self.every_s
        if trainer.world_size > 1:
            if (batch_idx + 1) % self._stride:
                return
            signum, is_due = self._agree(trainer, signum, is_due)
            self._set_stride(trainer, batch_idx)
        if signum is None and not is_due:
            return
        if self.finite is not None:
            self.finite.ask(trainer)
        self.checkpoints.save(trainer)
        self._saved_s = time.monotonic()
        if signum is not None:
            raise Stopped(signum)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_s = time.monotonic()
        signum = self.asked()
        if trainer.world_size > 1:
            signum, _ = self._agree(trainer, signum, False)
        if signum is not None:
            raise Stopped(signum)

    def _agree(self, trainer: Trainer, signum: int | None, is_due: bool) -> tuple[int | None, bool]:
        """What one process was asked, all do; the clock of the first one counts."""
        decide = trainer.strategy.reduce_boolean_decision
        if decide(signum is not None, all=False):
            return signum or signal.SIGTERM, False
        return None, decide(is_due and trainer.is_global_zero, all=False)

    def _set_stride(self, trainer: Trainer, batch_idx: int) -> None:
        """Ask about once a second, however long a step takes, and in all processes alike."""
        step_s = (time.monotonic() - self._epoch_s) / (batch_idx + 1)
        stride = max(1, min(50, int(LOOK_S / max(step_s, 1e-3))))
        self._stride = trainer.strategy.broadcast(stride)
