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
from typing import Any, Literal, Self

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
class DuplicatesInTraining:
    """Test images that have a near-duplicate in training.

    Attributes:
        duplicate_of: Path of a test image, and of the training image that is most like it.
        recalled: Score of the nearest training image for each test image, by its path.
        metric: What that score is; None where recalling has no score.
    """

    duplicate_of: Mapping[str, str]
    recalled: Mapping[str, float]
    metric: Literal["accuracy", "dice"] | None

    def table(self, tested: Tested) -> dict[str, Any]:
        """Scores of both kinds of test images, and of recalling.

        Returns:
            ``with_twin`` and ``without_twin``, each with ``num_images`` and its scores, and under
            ``memory_baseline`` the same two for the nearest training image.
        """
        paths, scores, groups = tested.paths, tested.scores, tested.groups
        doubled = np.array([path in self.duplicate_of for path in paths], bool)
        parts = {"with_twin": np.flatnonzero(doubled), "without_twin": np.flatnonzero(~doubled)}
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
        if self.metric is None:
            return {}
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


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run whose weights are measured again.

    Attributes:
        path: Its folder.
        summary: What ``summary.json`` holds.
    """

    path: Path
    summary: Mapping[str, Any]


class Evaluation(ABC):
    """Measures the weights of one run on its splits.

    For each split: let ``watch`` see the trainer run through it, then ask for the ``scores``;
    validation before test, for a threshold may come from it.

    Args:
        folder: Run folder, where predictions and plots go.

    Attributes:
        with_conventions: Whether ``conventions`` is going to be asked for.
        notes: What a reader of the scores should know.
        near_duplicates: Which test images have a near-duplicate in training; None where none has,
            or it is unknown.
        threshold: Probability from which the foreground, or the second of two classes, is
            predicted; None where no probability is.
    """

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder
        self.threshold: float | None = None
        self.notes: list[str] = []
        self.with_conventions = False
        self.near_duplicates: DuplicatesInTraining | None = None

    @classmethod
    @abstractmethod
    def of_run(
        cls,
        *,
        folder: Path,
        data: Any,
        options: Mapping[str, Any],
        finished: FinishedRun | None = None,
    ) -> Self:
        """Make the evaluation of a run.

        Args:
            folder: Where predictions and plots go.
            data: The data module that is measured.
            options: The part ``task`` of the run's config.
            finished: The run, where it is measured again: what it chose is kept.
        """

    @abstractmethod
    def watch(self, stage: Stage) -> Callback:
        """A callback that collects what the network says about a split."""

    @abstractmethod
    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        """Scores with intervals, by ``stage/name``; writes the predictions."""

    def details(self) -> dict[str, Any]:
        """Tables of the test images that ``summary.json`` holds besides the scores."""
        return {}

    def tested(self) -> Tested | None:
        """The test images and how some of them are scored; None where none was tested."""
        return None

    def conventions(self, stage: Stage) -> list[dict[str, Any]]:  # noqa: ARG002  none by default
        """Scores of a split by the conventions of other tools, medvision's own first.

        To be asked for after ``scores``, where ``with_conventions`` was set before ``watch``.
        """
        return []

    def near_duplicate_scores(self) -> dict[str, Any]:
        """Test scores with and without a near-duplicate in training; none where no image has one.

        Under the key that ``summary.json`` has for them.
        """
        tested = self.tested()
        if self.near_duplicates is None or tested is None:
            return {}
        return {"twins": self.near_duplicates.table(tested)}

    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:  # noqa: B027
        """Draw the curves of the fit, if there was one, and what was found on the test set."""

    def cases(self) -> tuple[list[Case], list[Case]]:
        """The worst test images, the worst first, and some typical ones."""
        order = self._worst_first()
        worst, rest = order[:NUM_WORST], order[NUM_WORST:]
        start = max(0, (len(rest) - NUM_TYPICAL) // 2)
        typical = rest[start : start + NUM_TYPICAL]
        return [self._case(row) for row in worst], [self._case(row) for row in typical]

    def _worst_first(self) -> list[int]:
        """Rows of the test images, the worst first; without any the report shows no image."""
        return []

    def _case(self, row: int) -> Case:
        """One test image, with what was made of it."""
        raise NotImplementedError


def or_none(value: float) -> float | None:
    """The number, or None where it is undefined: JSON and csv know no NaN."""
    return float(value) if math.isfinite(value) else None


def interval_or_none(interval: tuple[float, float]) -> list[float] | None:
    """Both ends, or None where one is undefined."""
    low, high = (or_none(end) for end in interval)
    return None if low is None or high is None else [low, high]
