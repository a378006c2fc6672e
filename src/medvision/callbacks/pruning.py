"""Tell a search how each epoch went, and end a run that it calls hopeless."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from medvision.callbacks.metrics_csv import EpochLog
from medvision.errors import MedvisionError, did_you_mean
from medvision.search.study import Study


class Pruning(Checkpoint):
    """Report the searched metric after each epoch; stop where the search says so.

    The first process reports and asks, and all do what it was told. What the log holds from
    before an interruption is reported first, each epoch once. The last epoch is never the one to
    be stopped: nothing would be saved. A ``Checkpoint`` by Lightning's order only: to be listed
    after the log and the one that saves the epochs.

    Args:
        folder: Of the search.
        trial: Number of the trial.
        metric: Logged value that is searched for.
        pruner: ``median`` or ``none``.
        startup_trials: Trials that must be complete before any is stopped.
        warmup_epochs: Epochs before a trial can be stopped.
        epoch_log: Knows the values.

    Attributes:
        pruned: Whether the run was stopped.
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
            self._ask(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = [name for name in self.epoch_log.rows[-1] if "/" in name]
        if self.metric not in logged and trainer.check_val_every_n_epoch == 1:
            raise MedvisionError(
                f"no logged value is called {self.metric}",
                where="sweep.metric",
                hint=did_you_mean(self.metric, logged, otherwise=f"choose from {logged}"),
            )
        self._ask(trainer)

    def _ask(self, trainer: Trainer) -> None:
        """Report what is not reported yet, and stop where that is hopeless."""
        hopeless = trainer.is_global_zero and self._is_hopeless(trainer.max_epochs)
        if trainer.strategy.broadcast(hopeless):
            self.pruned = True
            trainer.should_stop = True

    def _is_hopeless(self, max_epochs: int | None) -> bool:
        """Tell the study of all epochs; whether it calls the run hopeless after the last one."""
        study = self._open()
        for row in self.epoch_log.rows:
            epoch, value = int(row["epoch"] or 0), row.get(self.metric)
            if value is not None:
                study.report(self.trial, epoch, float(value))
        if self.pruner == "none" or value is None or epoch + 1 == max_epochs:
            return False
        return study.is_hopeless(
            self.trial, startup_trials=self.startup_trials, warmup_epochs=self.warmup_epochs
        )

    def _open(self) -> Study:
        if self._study is None:
            self._study = Study.of(self.folder)
        if self._study is None:
            raise MedvisionError(
                "the search of this trial is gone", where=str(self.folder), hint="start it again"
            )
        return self._study

    def __getstate__(self) -> dict[str, Any]:
        """Without the open journal: another process opens it itself."""
        return {**self.__dict__, "_study": None}
