"""Interface of every evaluation, and scores apart for images with a near-duplicate in training.

A network can recall the first and must recognise the second, so only the second say what it will
do with images it has never seen. Beside both stands what recalling alone scores: the class, or the
mask, of the training image whose thumbnail is nearest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Callback

from medvision.metrics import bootstrap_mean_interval, wilson_interval
from medvision.reports.run_page import Case
from medvision.types import Stage

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The test images of a run.

    Attributes:
        paths: Of each image, (N,).
        scores: Scores with their intervals of some rows.
        groups: Group of each image, or None where none are known.
    """

    paths: Sequence[str]
    scores: Callable[[Rows], Mapping[str, Any]]
    groups: Sequence[Hashable] | None


@dataclass(frozen=True, kw_only=True)
class TrainingTwins:
    """Which test images have a twin in training.

    Attributes:
        twin_of: Path of a test image, and of the training image that is most like it.
        recalled: Score of the nearest training image for each test image, by its path.
        metric: What that score is.
    """

    twin_of: Mapping[str, str]
    recalled: Mapping[str, float]
    metric: Literal["accuracy", "dice"]

    def table(self, tested: Tested) -> dict[str, Any]:
        """Scores of both kinds of test images, and of recalling.

        Returns:
            ``with_twin`` and ``without_twin``, each with ``num_images`` and its scores, and under
            ``memory_baseline`` the same two for the nearest training image.
        """
        paths, scores, groups = tested.paths, tested.scores, tested.groups
        twin = np.array([path in self.twin_of for path in paths], bool)
        parts = {"with_twin": np.flatnonzero(twin), "without_twin": np.flatnonzero(~twin)}
        return {
            **{
                name: {"num_images": len(rows), **(scores(rows) if len(rows) else {})}
                for name, rows in parts.items()
            },
            "memory_baseline": {
                name: self._recalled([paths[int(row)] for row in rows], _of(groups, rows))
                for name, rows in parts.items()
            },
        }

    def _recalled(
        self, paths: Sequence[str], groups: Sequence[Hashable] | None
    ) -> dict[str, float | list[float] | None]:
        values = [self.recalled[path] for path in paths if path in self.recalled]
        if len(values) < len(paths) or not values:
            return {self.metric: None, f"{self.metric}_ci95": None}
        mean = float(np.mean(values))
        if self.metric == "accuracy" and mean in (0.0, 1.0):  # all alike: a bootstrap has no doubt
            size = len(values) if groups is None else len(set(groups))
            interval = wilson_interval(round(mean * size), size)
        else:
            interval = bootstrap_mean_interval(values, groups=groups)
        return {self.metric: mean, f"{self.metric}_ci95": list(interval)}


def _of(groups: Sequence[Hashable] | None, rows: Rows) -> list[Hashable] | None:
    return None if groups is None else [groups[int(row)] for row in rows]


Score = float | list[float] | None
"""A number, an interval [low, high], or None where it is undefined."""

NUM_WORST, NUM_TYPICAL = 12, 6
"""Test images that a report shows."""

SHOWN_PX = 480


class Evaluation(ABC):
    """Measures the weights of one run on its splits.

    For each split: let ``watch`` see the trainer run through it, then ask for the ``scores``;
    validation before test, for a threshold may come from it.

    Args:
        folder: Run folder, where predictions and plots go.

    Attributes:
        notes: What a reader of the scores should know.
        twins: Which test images have a twin in training; None where none has, or nobody looked.
        threshold: Probability from which the foreground, or the second of two classes, is
            predicted.
    """

    shown: ClassVar[tuple[str, ...]]
    """Names of the scores that the table on the screen has."""

    def __init__(self, *, folder: Path) -> None:
        self.folder, self.threshold = folder, 0.5
        self.notes: list[str] = []
        self.twins: TrainingTwins | None = None

    @abstractmethod
    def watch(self, stage: Stage) -> Callback:
        """A callback that collects what the network says about a split."""

    @abstractmethod
    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        """Scores with intervals, by ``stage/name``; writes the predictions."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """Tables of the test images that ``summary.json`` holds besides the scores."""

    @abstractmethod
    def tested(self) -> Tested | None:
        """The test images and how some of them are scored; None where none was tested."""

    def by_twin(self) -> dict[str, Any]:
        """Test scores with and without a twin in training, as ``summary.json`` holds them.

        Nothing where no test image has one.
        """
        tested = self.tested()
        if self.twins is None or tested is None:
            return {}
        return {"twins": self.twins.table(tested)}

    @abstractmethod
    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:
        """Draw the curves of the fit, if there was one, and what was found on the test set."""

    @abstractmethod
    def cases(self) -> tuple[list[Case], list[Case]]:
        """The worst test images, the worst first, and some typical ones."""


def or_none(value: float) -> float | None:
    """The number, or None where it is undefined: JSON and csv know no NaN."""
    return float(value) if math.isfinite(value) else None


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image (H, W, C) for a page: RGB, its longer side at most ``SHOWN_PX``."""
    scale = SHOWN_PX / max(image.shape[:2])
    if scale < 1:
        height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        image = small.reshape(height, width, image.shape[2]).astype(np.uint8, copy=False)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def middle(order: Sequence[int], count: int) -> list[int]:
    """The rows around the middle of an order."""
    start = max(0, (len(order) - count) // 2)
    return list(order[start : start + count])
