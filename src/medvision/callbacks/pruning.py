"""Report each epoch to a search, and stop runs that it prunes."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medvision.callbacks.metrics_csv import EpochLog
from medvision.errors import MedvisionError, did_you_mean
from medvision.search.study import Study


class Pruning(Checkpoint):
    """Report the searched metric after each epoch; stop the run if the search prunes it.

    The first process reports and decides for all. After resuming, the logged epochs are reported
    first, each once. The run is never stopped after the last epoch: this would save nothing.
    Inherits from ``Checkpoint`` only for Lightning's callback order: must be listed after the log
    and the callback that saves the epochs.

    Args:
        folder: Folder of the search.
        trial: Number of the trial.
        metric: Logged value to optimise.
        pruner: ``median`` or ``none``.
        startup_trials: Trials that must be complete before any is stopped.
        warmup_epochs: Epochs before a trial can be stopped.
        epoch_log: Callback that holds the logged values.

    Attributes:
        pruned: True if the run was stopped.
    """

    HANDED_OVER: ClassVar = ("pruned",)

    def __init__(
        self,
        *,
        folder: Path,
        trial: int,
        metric: str,
        pruner: Literal["median", "none"],
        startup_trials: int,
        warmup_epochs: int,
        epoch_log: EpochLog,
    ) -> None:
        self.folder, self.trial, self.metric = folder, trial, metric
        self.pruner, self.startup_trials, self.warmup_epochs = pruner, startup_trials, warmup_epochs
        self.epoch_log = epoch_log
        self.pruned = False
        self._study: Study | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch_log.rows:
            self._report(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = [name for name in self.epoch_log.rows[-1] if "/" in name]
        if self.metric not in logged and trainer.check_val_every_n_epoch == 1:
            raise MedvisionError(
                f"unknown logged value {self.metric}",
                where="sweep.metric",
                hint=did_you_mean(self.metric, logged, otherwise=f"choose from {logged}"),
            )
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        """Report new epochs, and stop the run if the search prunes it."""
        prune = trainer.is_global_zero and self._should_prune(trainer.max_epochs)
        if trainer.strategy.broadcast(prune):
            self.pruned = True
            trainer.should_stop = True

    def _should_prune(self, max_epochs: int | None) -> bool:
        """Report all epochs to the study; return True if it prunes the run after the last one."""
        study = self._open()
        for row in self.epoch_log.rows:
            epoch, value = int(row["epoch"] or 0), row.get(self.metric)
            if value is not None:
                study.report(self.trial, epoch, float(value))
        if self.pruner == "none" or value is None or epoch + 1 == max_epochs:
            return False
        return study.should_prune(
            self.trial, startup_trials=self.startup_trials, warmup_epochs=self.warmup_epochs
        )

    def _open(self) -> Study:
        if self._study is None:
            self._study = Study.of(self.folder)
        if self._study is None:
            raise MedvisionError(
                "the search of this trial no longer exists",
                where=str(self.folder),
                hint="start it again",
            )
        return self._study

    def __getstate__(self) -> dict[str, Any]:
        """State without the open journal, which another process opens itself."""
        return {**self.__dict__, "_study": None}
