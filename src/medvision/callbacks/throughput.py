"""How fast a run trained."""

import time
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from medvision.hardware import peak_memory_mb, wait_for


class Throughput(Callback):
    """Training images per second with the wait for data, without start-up and validation.

    The first two steps of the fit are left out: they pay for workers, allocations and
    compilation. An epoch's clock runs from its start to its last training step.

    Attributes:
        first_step_s: ``time.perf_counter()`` at the end of the first training step.
        images: Images counted; images / seconds is the rate.
        seconds: Time counted.
        peak_memory_mb: Of the fit, once it has ended.
    """

    SKIPPED_STEPS = 2
    HANDED_OVER: ClassVar = ("first_step_s", "images", "seconds", "peak_memory_mb")

    def __init__(self) -> None:
        self.first_step_s: float | None = None
        self.images, self.seconds = 0, 0.0
        self.peak_memory_mb: float | None = None
        self._steps, self._last_s = 0, 0.0

    @property
    def images_per_s(self) -> float | None:
        """Rate, or None when the fit was too short to have one."""
        return self.images / self.seconds if self.seconds else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            wait_for(pl_module.device)  # a GPU is steps behind the program that feeds it
        now_s = time.perf_counter()
        if self.first_step_s is None:
            self.first_step_s = now_s
        self._steps += 1
        if self._steps > self.SKIPPED_STEPS:
            self.images += len(batch["image"]) * trainer.world_size
            self.seconds += now_s - self._last_s
        self._last_s = now_s

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.peak_memory_mb = peak_memory_mb(pl_module.device.type)
