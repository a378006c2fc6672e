"""Stop a run whose loss is no longer a number."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from medvision.types import Batch, MedvisionError


class FiniteLoss(Callback):
    """Stop the fit when a training loss was NaN or infinite, before a checkpoint can hold it.

    The losses are watched on the device and asked about every ``every_n_steps`` and at the end
    of each epoch, so that no step waits for the answer. Processes ask each other at the same
    steps: where one has such a loss, all stop.

    Args:
        every_n_steps: Steps between two questions.
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
        # One tensor from the first step to the last: a fresh one would be a new graph to XLA.
        self.all_finite = self.all_finite & torch.isfinite(outputs["loss"].detach())
        if trainer.is_last_batch or (batch_idx + 1) % self.every_n_steps == 0:
            self.ask(trainer)

    def ask(self, trainer: Trainer) -> None:
        """Wait for the losses of this epoch so far; to be called in every process.

        Raises:
            MedvisionError: If one of them was NaN or infinite.
        """
        if not trainer.strategy.reduce_boolean_decision(bool(self.all_finite.cpu()), all=True):
            raise MedvisionError(
                f"the training loss became NaN or infinite in epoch {trainer.current_epoch}",
                where="loss",
                hint="lower optimizer.lr, or set trainer.precision=32;"
                " the checkpoints of the epochs before are kept",
                exit_code=3,
            )
