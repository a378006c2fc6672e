"""Progress bar, and training throughput."""

import time
from collections import deque
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor

from medvision.hardware import peak_memory_mb, wait_for


class Progress(TQDMProgressBar):
    """Lightning's progress bar with the loss of a few steps ago, which the device has finished.

    Args:
        refresh_rate: Steps between two updates, and age of the loss in steps.
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


class Throughput(Callback):
    """Training images per second including the wait for data, without start-up and validation.

    The first two steps of the fit are excluded: they include worker start-up, allocation and
    compilation. Each epoch is timed from its start to its last training step.

    Attributes:
        first_step_s: ``time.perf_counter()`` at the end of the first training step.
        images: Images counted; images / seconds is the rate.
        seconds: Time counted.
        fit_s: Seconds of the ended fit, summed over all parts of an interrupted one.
        peak_memory_mb: Peak memory of the ended fit.
    """

    SKIPPED_STEPS = 2
    HANDED_OVER: ClassVar = ("first_step_s", "images", "seconds", "fit_s", "peak_memory_mb")

    def __init__(self) -> None:
        self.first_step_s: float | None = None
        self.images, self.seconds = 0, 0.0
        self.fit_s: float | None = None
        self.peak_memory_mb: float | None = None
        self._started_s, self._earlier_s = 0.0, 0.0
        self._steps, self._last_s, self._device = 0, 0.0, "cpu"

    @property
    def images_per_s(self) -> float | None:
        """Images per second, or None if the fit was too short."""
        return self.images / self.seconds if self.seconds else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._started_s = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_s, self._device = time.perf_counter(), pl_module.device.type

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            wait_for(pl_module.device)  # a GPU runs steps behind the Python program
        now_s = time.perf_counter()
        if self.first_step_s is None:
            self.first_step_s = now_s
        self._steps += 1
        if self._steps > self.SKIPPED_STEPS:
            self.images += len(batch["image"]) * trainer.world_size
            self.seconds += now_s - self._last_s
        self._last_s = now_s

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fit_s = self._elapsed_s()
        self.peak_memory_mb = self._peak_mb()

    def state_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "seconds": self.seconds,
            "fit_s": self._elapsed_s(),
            "peak_memory_mb": self._peak_mb(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images, self.seconds = state_dict["images"], state_dict["seconds"]
        self.fit_s = self._earlier_s = state_dict["fit_s"]
        self.peak_memory_mb = state_dict["peak_memory_mb"]

    def _elapsed_s(self) -> float:
        return self._earlier_s + time.perf_counter() - self._started_s

    def _peak_mb(self) -> float:
        """Peak memory of this process or of an earlier part of the fit."""
        return max(self.peak_memory_mb or 0.0, peak_memory_mb(self._device))
