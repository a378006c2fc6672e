"""What the evaluation of every task offers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pytorch_lightning import Callback

from medvision.types import Stage

Score = float | list[float] | None
"""A number, an interval [low, high], or None where it is undefined."""


class Evaluation(ABC):
    """Measures the weights of one run on its splits.

    For each split: let ``watch`` see the trainer run through it, then ask for the ``scores``;
    validation before test, for a threshold may come from it.

    Args:
        folder: Run folder, where predictions and plots go.

    Attributes:
        notes: What a reader of the scores should know.
        threshold: Probability from which the foreground, or the second of two classes, is
            predicted.
    """

    shown: ClassVar[tuple[str, ...]]
    """Names of the scores that the table on the screen has."""

    def __init__(self, *, folder: Path) -> None:
        self.folder, self.threshold = folder, 0.5
        self.notes: list[str] = []

    @abstractmethod
    def watch(self, stage: Stage) -> Callback:
        """A callback that collects what the network says about a split."""

    @abstractmethod
    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        """Scores with intervals, by ``stage/name``; writes the predictions."""

    @abstractmethod
    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:
        """Draw the curves of the fit and what was found on the test set."""


def or_none(value: float) -> float | None:
    """The number, or None where it is undefined: JSON and csv know no NaN."""
    return float(value) if math.isfinite(value) else None
