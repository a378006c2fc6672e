"""Collect what the network said about every image of a split."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer

from medvision.metrics import probabilities
from medvision.types import Batch


class ClassProbabilities(Callback):
    """Keep logits and probabilities of every image, in the order of the split's table."""

    def __init__(self) -> None:
        self._logits: list[NDArray[np.float32]] = []
        self._probability: list[NDArray[np.float32]] = []
        self._target: list[NDArray[np.uint8]] = []
        self._index: list[NDArray[np.int64]] = []

    @property
    def probability(self) -> NDArray[np.float64]:
        """Probability of each class, (N, K)."""
        return np.concatenate(self._probability).astype(np.float64)

    @property
    def logits(self) -> NDArray[np.float64]:
        """Logit of each class, (N, K); of two classes columns 0 and the logit of the second.

        They tell apart what probabilities round to 0 and 1.
        """
        logits = np.concatenate(self._logits).astype(np.float64)
        return np.pad(logits, ((0, 0), (1, 0))) if logits.shape[1] == 1 else logits

    @property
    def target(self) -> NDArray[np.int64]:
        """Class index of each image, (N,)."""
        return np.concatenate(self._target).astype(np.int64)

    @property
    def index(self) -> NDArray[np.int64]:
        """Row of each image in its split's table, (N,); empty before the first batch."""
        return np.concatenate([np.empty(0, np.int64), *self._index])

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *args: int
    ) -> None:
        self._keep(outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *args: int
    ) -> None:
        self._keep(outputs, batch)

    def _keep(self, logits: torch.Tensor, batch: Batch) -> None:
        index = batch["index"].cpu().numpy()
        real = index >= 0  # the others pad the batch
        self._logits.append(logits.float().cpu().numpy()[real])
        self._probability.append(probabilities(logits).cpu().numpy()[real])
        self._target.append(batch["target"].cpu().numpy()[real])
        self._index.append(index[real])
