"""TensorBoard's log, which no training waits for."""

from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger
from typing_extensions import override


class LateTensorBoard(TensorBoardLogger):
    """Lightning's logger for TensorBoard, whose writer is made when something is first written.

    Lightning itself makes the writer before the fit: a second or more of imports. Arguments are
    those of ``pytorch_lightning.loggers.TensorBoardLogger``, and so are the files.
    """

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, or what becomes it as soon as it is used."""
        return _Writer(self) if self._experiment is None else self._experiment

    def writer(self) -> Any:
        """The writer itself, made where there is none."""
        return TensorBoardLogger.experiment.__get__(self)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Flush what was written; where nothing was, there is nothing to save."""
        if self._experiment is not None:
            super().save()


class _Writer:
    """A ``SummaryWriter`` that is made when it is first asked for anything."""

    def __init__(self, logger: LateTensorBoard) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger.writer(), name)
