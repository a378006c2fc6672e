"""Interface of every evaluation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pytorch_lightning import Callback

from medvision.console import counted
from medvision.evaluation.parts import (
    DuplicatesInTraining,
    Tested,
    detectable_differences,
    subgroup_table,
)
from medvision.metrics.calibration import MIN_IMAGES
from medvision.metrics.intervals import MIN_UNBOUNDED
from medvision.reports.run_page import Case
from medvision.scores import score_named
from medvision.types import Stage

Score = float | list[float] | None
"""A number, an interval [low, high], or None where it is undefined."""

NUM_WORST, NUM_TYPICAL = 12, 6
"""Number of worst and of typical test images in a report."""

MOST_NAMED = 8
"""Largest number of scores that a note names."""


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
        subgroups: Value of each image, by its path, in each column of the data set for whose values
            test scores are computed apart.
        threshold: Probability from which the foreground, or the second of two classes, is
            predicted; None if nothing is predicted by probability.
        scored: Numbers behind the scores of each measured split: ``num_images`` and, for classes
            of images, ``class_counts``.
        not_finite: Number of images of a split for which the output of the network is not finite,
            if there are any. All scores of the split are then None.
    """

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder
        self.threshold: float | None = None
        self.notes: list[str] = []
        self.with_conventions = False
        self.near_duplicates: DuplicatesInTraining | None = None
        self.subgroups: Mapping[str, Mapping[str, str]] = {}
        self.scored: dict[Stage, dict[str, Any]] = {}
        self.not_finite: dict[Stage, int] = {}
        self._noted: dict[str, str] = {}

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

    def note(self, text: str, *, about: str) -> None:
        """Add a note on a split, which replaces the one on an earlier split about the same."""
        self.notes = [note for note in self.notes if note != self._noted.get(about)] + [text]
        self._noted[about] = text

    def note_never_predicted(self, stage: Stage, images: Mapping[str, int]) -> None:
        """Add a note for each class that is labelled in a split and never predicted.

        Args:
            stage: The split.
            images: Number of images of each of these classes.
        """
        for name, count in images.items():
            there = f"{counted(count, 'image')} {'contains' if count == 1 else 'contain'} it"
            text = f"{name} was never predicted on {stage}, although {there}"
            self.note(text, about=f"never {name}")

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
            reasons.setdefault(_why_no_interval(name), []).append(_title(name))
        for reason, of in reasons.items():
            more = len(of) - MOST_NAMED
            shown = of if more <= 0 else [*of[:MOST_NAMED], f"and {counted(more, 'further score')}"]
            missing = f"{', '.join(shown)}: {reason}"
            self.note(f"no 95 % interval of {stage} {missing}", about=missing)

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

    def further_scores(self) -> dict[str, Any]:
        """Compute test scores by subgroup and by patient, and the smallest difference to be seen.

        The result has the keys used in ``summary.json``; parts that do not apply are left out.
        """
        tested = self.tested()
        if tested is None:
            return {}
        found = {
            "subgroups": subgroup_table(tested, self.subgroups),
            "per_patient": self.patient_scores(),
            "detectable_difference": detectable_differences(
                tested.scores(np.arange(len(tested.paths)))
            ),
        }
        return {key: value for key, value in found.items() if value}

    def patient_scores(self) -> dict[str, Any]:
        """Compute test scores with one value per group; empty if no group has several images."""
        return {}

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


def _title(name: str) -> str:
    """Title of a score, with the class of a score of one class; its name if it has no title."""
    score, _, of = score_named(name), *name.partition("/")[1:]
    return name if score is None else f"{score.title} of {of}" if of else score.title


def _why_no_interval(name: str) -> str:
    score = score_named(name)
    if name.startswith("ece"):
        return f"{MIN_IMAGES} images (or groups) are needed"
    if score is None or (
        not score.bounded and (score.per_image or name.startswith("false_positives"))
    ):
        return (
            f"{MIN_UNBOUNDED} images (or groups) with unequal values are needed, because no upper"
            " bound of the score is known"
        )
    return (
        "two images (or groups) are needed of each true and predicted class that the score counts"
    )


def or_none(value: float) -> float | None:
    """Return the number, or None if undefined: JSON and csv have no NaN."""
    return float(value) if math.isfinite(value) else None


def interval_or_none(interval: tuple[float, float]) -> list[float] | None:
    """Return both ends, or None if one is undefined."""
    low, high = (or_none(end) for end in interval)
    return None if low is None or high is None else [low, high]
