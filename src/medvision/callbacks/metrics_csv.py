"""One row per epoch in metrics.csv and on the screen."""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medvision.files import write_table
from medvision.scores import names_at, other_scores

NUM_SHOWN = 4
"""Number of leading columns on the screen, in addition to values of the user's callbacks."""


class EpochLog(Checkpoint):
    """Write every logged value of an epoch at its end.

    The rows are stored in the checkpoints, so a resumed run has each exactly once. Inherits from
    ``Checkpoint`` only for Lightning's callback order: runs after the task has logged its epoch.

    Args:
        dirpath: Run folder; the file is ``metrics.csv`` in it.

    Attributes:
        rows: One dict per epoch; None for undefined values.
    """

    HANDED_OVER: ClassVar = ("rows",)

    def __init__(self, *, dirpath: str) -> None:
        self.path = Path(dirpath) / "metrics.csv"
        self.rows: list[dict[str, float | int | None]] = []
        self._started_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started_s = time.perf_counter()
        if self.rows and trainer.is_global_zero:  # no rows of epochs that are trained again
            write_table(self.path, self.rows)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started_s = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values.pop("lr", None)  # float32 there; the optimizer has the exact value
        row: dict[str, float | int | None] = {"epoch": trainer.current_epoch}
        task = getattr(pl_module, "kind", None)  # set by Task
        first = names_at("log", task)
        for name in sorted(values, key=partial(_column_order, first)):
            row[name] = values[name] if math.isfinite(values[name]) else None
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows = [old for old in self.rows if old["epoch"] != row["epoch"]] + [row]
        if trainer.is_global_zero:
            write_table(self.path, self.rows)
            on_terminal = sys.stdout is not None and sys.stdout.isatty()
            width = shutil.get_terminal_size().columns if on_terminal else None
            trainer.print(self._line(row, task, trainer.max_epochs, width), flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def _line(
        self,
        row: dict[str, float | int | None],
        task: str | None,
        max_epochs: int | None,
        width: int | None,
    ) -> str:
        """Line of an epoch; the last scores of a stage are left out where they do not fit."""
        lines = (self._with(shown, row, task, max_epochs) for shown in range(NUM_SHOWN, 0, -1))
        fitting = (line for line in lines if width is None or len(line) <= width)
        return next(fitting, self._with(1, row, task, max_epochs))

    def _with(
        self,
        num_shown: int,
        row: dict[str, float | int | None],
        task: str | None,
        max_epochs: int | None,
    ) -> str:
        others = [score.name for score in other_scores(row, task)]
        epoch = int(row["epoch"] or 0) + 1
        parts = [f"epoch {epoch:>3}/{max_epochs}"]
        for stage in ("train", "val"):
            known = [name for name in names_at("log", task) if f"{stage}/{name}" in row]
            shown = [*known[:num_shown], *(name for name in others if f"{stage}/{name}" in row)]
            if shown:
                values = ((name, row[f"{stage}/{name}"]) for name in shown)
                words = (f"{name} {'-' if v is None else f'{v:.4f}'}" for name, v in values)
                parts.append(f"{stage} " + " ".join(words))
        parts.append(f"{time.perf_counter() - self._started_s:>4.0f} s")
        return "  ".join(parts)


def _column_order(first: Sequence[str], name: str) -> tuple[int, str, bool]:
    """Order columns: the first scores first, each with train before val."""
    stage, _, metric = name.partition("/")
    return (first.index(metric) if metric in first else len(first), metric, stage != "train")
