"""Stop a run whose loss is no longer a number."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from medvision.types import MedvisionError


class FiniteLoss(Callback):
    """Stop the fit when a training loss was NaN or infinite, before a checkpoint can hold it.

    The losses are watched on the device and asked about every ``every_n_steps`` and at the end
    of each epoch, so that no step waits for the answer.

    Args:
        every_n_steps: Steps between two questions.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self.all_finite: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        finite = torch.isfinite(outputs["loss"].detach())
        self.all_finite = finite if self.all_finite is None else self.all_finite & finite
        if trainer.is_last_batch or (batch_idx + 1) % self.every_n_steps == 0:
            if not bool(self.all_finite):
                raise MedvisionError(
                    f"the training loss became NaN or infinite in epoch {trainer.current_epoch}",
                    where="loss",
                    hint="lower optimizer.lr, or set trainer.precision=32;"
                    " the checkpoints of the epochs before are kept",
                    exit_code=3,
                )
            self.all_finite = None
