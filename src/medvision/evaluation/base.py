"""Interface of every evaluation, and separate scores for images with a near-duplicate in training.

A network can recall images with a near-duplicate in training, so only the other images show how it
performs on unseen images. Both scores are reported together with that of recalling alone: the
class, or the mask, of the training image with the most similar thumbnail.
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

from medvision.metrics import mean_interval, proportion_interval
from medvision.metrics.calibration import MIN_IMAGES
from medvision.metrics.intervals import MIN_UNBOUNDED
from medvision.reports.run_page import Case
from medvision.scores import score_named
from medvision.types import Stage

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The test images of a run.

    Attributes:
        paths: Path of each image, (N,).
        scores: Function that computes scores with intervals for selected rows.
        groups: Group of each image, or None if unknown.
    """

    paths: Sequence[str]
    scores: Callable[[Rows], Mapping[str, Any]]
    groups: Sequence[Hashable] | None


@dataclass(frozen=True, kw_only=True)
class DuplicatesInTraining:
    """Test images that have a near-duplicate in training.

    Attributes:
        duplicate_of: Path of the most similar training image, by path of the test image.
        recalled: Score of the nearest training image for each test image, by its path.
        metric: Name of that score; None if recalling has no score.
    """

    duplicate_of: Mapping[str, str]
    recalled: Mapping[str, float]
    metric: Literal["accuracy", "dice"] | None

    def table(self, tested: Tested) -> dict[str, Any]:
        """Compute scores of both kinds of test images, and of recalling.

        Returns:
            ``with_twin`` and ``without_twin``, each with ``num_images`` and scores, and under
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
        interval = proportion_interval if self.metric == "accuracy" else mean_interval
        ends = interval_or_none(interval(values, groups=groups))
        return {self.metric: mean, f"{self.metric}_ci95": ends}


def _of(groups: Sequence[Hashable] | None, rows: Rows) -> list[Hashable] | None:
    return None if groups is None else [groups[int(row)] for row in rows]


Score = float | list[float] | None
"""A number, an interval [low, high], or None where it is undefined."""

NUM_WORST, NUM_TYPICAL = 12, 6
"""Number of worst and of typical test images in a report."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run that is evaluated again.

    Attributes:
        path: Run folder.
        summary: Content of ``summary.json``.
    """

    path: Path
    summary: Mapping[str, Any]


class Evaluation(ABC):
    """Evaluate the weights of one run on its splits.

    For each split, pass the callback of ``watch`` to the trainer, then call ``scores``. Evaluate
    validation before test, because the threshold may be chosen on validation.

    Args:
        folder: Run folder for predictions and plots.

    Attributes:
        with_conventions: If True, ``conventions`` will be called.
        notes: Remarks for readers of the scores.
        near_duplicates: Test images with a near-duplicate in training; None if there are none or
            they are unknown.
        threshold: Probability from which the foreground, or the second of two classes, is
            predicted; None if nothing is predicted by probability.
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
        """Create the evaluation of a run.

        Args:
            folder: Folder for predictions and plots.
            data: Data module to evaluate on.
            options: Section ``task`` of the run's config.
            finished: The run if it is evaluated again; its choices are then kept.
        """

    @abstractmethod
    def watch(self, stage: Stage) -> Callback:
        """Create a callback that collects the network's outputs for a split."""

    @abstractmethod
    def scores(self, stage: Stage, logged: Mapping[str, float]) -> dict[str, Score]:
        """Compute scores with intervals, by ``stage/name``, and write the predictions."""

    def note_missing_intervals(
        self, stage: Stage, scores: Mapping[str, Score], *, only: str | None = None
    ) -> None:
        """Add a note on the scores of a split that have no interval, with the reason.

        Args:
            stage: The split.
            scores: Its scores, with their intervals.
            only: Name of the only score to look at; None for all.
        """
        names = [
            name.removeprefix(f"{stage}/").removesuffix("_ci95")
            for name, ends in scores.items()
            if name.startswith(f"{stage}/") and name.endswith("_ci95") and ends is None
        ]
        known = [
            name
            for name in names
            if scores.get(f"{stage}/{name}") is not None and only in (None, name)
        ]
        reasons: dict[str, list[str]] = {}
        for name in known:
            reasons.setdefault(_why_no_interval(name), []).append(name)
        for reason, of in reasons.items():
            self.notes.append(f"no 95 % interval of {stage} {', '.join(of)}: {reason}")

    def details(self) -> dict[str, Any]:
        """Build tables of the test images that ``summary.json`` contains besides the scores."""
        return {}

    def tested(self) -> Tested | None:
        """Return the test images with a function to score a subset; None if none were tested."""
        return None

    def conventions(self, stage: Stage) -> list[dict[str, Any]]:  # noqa: ARG002  none by default
        """Compute scores of a split by the conventions of other tools, medvision's own first.

        Call it after ``scores``, with ``with_conventions`` set before ``watch``.
        """
        return []

    def near_duplicate_scores(self) -> dict[str, Any]:
        """Compute test scores with and without a near-duplicate in training; may be empty.

        The result has the key used in ``summary.json``.
        """
        tested = self.tested()
        if self.near_duplicates is None or tested is None:
            return {}
        return {"twins": self.near_duplicates.table(tested)}

    def plot(self, history: Sequence[Mapping[str, float | int | None]]) -> None:  # noqa: B027
        """Draw the training curves, if there are any, and the test results."""

    def cases(self) -> tuple[list[Case], list[Case]]:
        """Return the worst test images, the worst first, and some typical ones."""
        order = self._worst_first()
        worst, rest = order[:NUM_WORST], order[NUM_WORST:]
        start = max(0, (len(rest) - NUM_TYPICAL) // 2)
        typical = rest[start : start + NUM_TYPICAL]
        return [self._case(row) for row in worst], [self._case(row) for row in typical]

    def _worst_first(self) -> list[int]:
        """Rank the test images, the worst first; if empty, the report shows no image."""
        return []

    def _case(self, row: int) -> Case:
        """Build one test image with its prediction."""
        raise NotImplementedError


def _why_no_interval(name: str) -> str:
    score = score_named(name)
    if name.startswith("ece"):
        return f"it needs {MIN_IMAGES} images, or independent ones among grouped images"
    if score is None or (not score.bounded and score.per_image):
        return f"without known bounds it needs {MIN_UNBOUNDED} different images (or groups)"
    return "it needs two images (or groups), of each class or prediction that it counts"


def or_none(value: float) -> float | None:
    """Return the number, or None if undefined: JSON and csv have no NaN."""
    return float(value) if math.isfinite(value) else None


def interval_or_none(interval: tuple[float, float]) -> list[float] | None:
    """Return both ends, or None if one is undefined."""
    low, high = (or_none(end) for end in interval)
    return None if low is None or high is None else [low, high]
