"""The bar of the epoch that is running."""

from collections import deque
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor


class Progress(TQDMProgressBar):
    """Lightning's bar with the loss of a few steps ago, which no device is still working on.

    Args:
        refresh_rate: Steps between two looks at the loss, and how old it is.
    """

    def __init__(self, *, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self._losses: deque[Tensor] = deque(maxlen=refresh_rate + 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        return {"loss": f"{float(self._losses[0].cpu()):.4f}"} if self._losses else {}
