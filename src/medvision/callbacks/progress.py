"""The bar of the epoch that is running."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor


class Progress(TQDMProgressBar):
    """Lightning's bar with the loss of the last step, asked for at each refresh only.

    Args:
        refresh_rate: Steps between two looks at the loss, each of which waits for the device.
    """

    def __init__(self, *, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self._loss: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss = outputs["loss"].detach()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        return {} if self._loss is None else {"loss": f"{float(self._loss):.4f}"}
