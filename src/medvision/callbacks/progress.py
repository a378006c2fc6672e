"""Progress on the terminal, and training throughput."""

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from medvision.hardware import peak_memory_mb, wait_for
from medvision.live import live_line, time_left


class Progress(Callback):
    """Live line of the terminal: a bar for each epoch, and the time left for the whole fit.

    The bar covers the training and the validation batches of an epoch, and epochs count from 1, as
    in the line that is printed at their end. The loss is that of a few steps ago, which the device
    has finished.
    """

    LAG = 5
    """Age of the loss in steps."""

    def __init__(self) -> None:
        self._losses: deque[Tensor] = deque(maxlen=self.LAG + 1)
        self._done, self._in_fit = 0, 0
        self._started_s: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._done = 0
        self._show_epoch(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        self._count(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._count(trainer)
        else:
            self._show_stage("measuring validation", trainer.num_val_batches)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._show_stage("testing", trainer.num_test_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        live_line.clear()  # the line of the epoch is printed next

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        live_line.clear()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        live_line.clear()

    def _count(self, trainer: Trainer) -> None:
        self._done += 1
        if self._started_s is None:  # the first step starts processes and allocates memory
            self._started_s = time.perf_counter()
        else:
            self._in_fit += 1
        if live_line.is_due():
            self._show_epoch(trainer)

    def _show_epoch(self, trainer: Trainer) -> None:
        if not live_line.is_possible:
            return
        epoch, of = trainer.current_epoch + 1, trainer.max_epochs or 0
        batches = trainer.num_training_batches + sum(trainer.num_val_batches)
        total = int(batches) if math.isfinite(batches) else None
        notes = []
        if self._losses:
            notes.append(f"loss {float(self._losses[0].cpu()):.4f}")
        if self._started_s is not None and self._in_fit and total is not None:
            rate = (time.perf_counter() - self._started_s) / self._in_fit
            ahead = total - self._done + max(0, of - epoch) * total
            notes.append(time_left(rate * max(0, ahead)))
        name = f"epoch {epoch:>3}/{of}" if of > 0 else f"epoch {epoch:>3}"
        note = "  ".join(notes)
        live_line.show(name, done=self._done, total=total, note=note, moves=False)

    def _show_stage(self, name: str, batches: Sequence[int | float]) -> None:
        self._done += 1
        if live_line.is_due():
            total = sum(batches)
            known = int(total) if math.isfinite(total) else None
            live_line.show(name, done=self._done, total=known, moves=False)


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
