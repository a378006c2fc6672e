"""Keep the best and the last epoch."""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medvision.files import link_or_copy


class BestAndLast(Checkpoint):
    """Write ``last.ckpt`` after every epoch and ``best.ckpt`` after every better one.

    Lightning's ModelCheckpoint takes a first NaN for the best value, and leaves ``last.ckpt``
    behind where an epoch was not the best; here an undefined value is never the best. When
    no epoch had a defined value, best falls back to last and ``warning`` says so.

    Args:
        dirpath: Run folder; the files are in ``checkpoints/`` below it.
        monitor: Logged value that decides, such as ``val/dice``; never a test metric.
        mode: Whether the largest or the smallest is the best.

    Attributes:
        best_epoch: Epoch in ``best.ckpt``, counted from 0; None before the first.
        best_value: Its monitored value; None where best fell back to last.
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

    @property
    def best_path(self) -> Path:
        """Where the best epoch is kept."""
        return self.folder / "best.ckpt"

    @property
    def last_path(self) -> Path:
        """Where the last epoch is kept."""
        return self.folder / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        better = value is not None and self._is_better(float(value))
        if better and value is not None:
            self.best_epoch, self.best_value = trainer.current_epoch, float(value)
        self.last_epoch = trainer.current_epoch
        self._save(trainer, self.last_path)
        if better and trainer.is_global_zero:
            link_or_copy(self.last_path, self.best_path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.best_epoch is None and self.last_epoch is not None:
            self.best_epoch = self.last_epoch
            self.warning = (
                f"{self.monitor} was undefined in every epoch:"
                " best.ckpt holds the last epoch, not the best one"
            )
            if trainer.is_global_zero:
                link_or_copy(self.last_path, self.best_path)

    def state_dict(self) -> dict[str, Any]:
        return {"best_epoch": self.best_epoch, "best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A new run folder starts its own record: it has no file of the old best epoch.
        if self.best_path.exists():
            self.best_epoch = state_dict["best_epoch"]
            self.best_value = state_dict["best_value"]

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best_value is None:
            return True
        return value > self.best_value if self.mode == "max" else value < self.best_value

    @staticmethod
    def _save(trainer: Trainer, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(path)
