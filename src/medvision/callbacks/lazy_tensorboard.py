"""TensorBoard logger that does not delay the start of training."""

from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger
from typing_extensions import override


class LateTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, with a writer created at the first write.

    Lightning creates the writer before the fit, which takes a second or more of imports. Arguments
    and files are those of ``pytorch_lightning.loggers.TensorBoardLogger``.
    """

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Writer, or a placeholder that is replaced at the first use."""
        return _Writer(self) if self._experiment is None else self._experiment

    def writer(self) -> Any:
        """Writer, created if there is none."""
        return TensorBoardLogger.experiment.__get__(self)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Flush the writer, if anything was written."""
        if self._experiment is not None:
            super().save()


class _Writer:
    """``SummaryWriter`` that is created on first access."""

    def __init__(self, logger: LateTensorBoard) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger.writer(), name)
