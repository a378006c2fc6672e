"""Test scores apart for images that have a near-duplicate in training and for those that have none.

A network can recall the first and must recognise the second, so only the second say what it will
do with images it has never seen. Beside both stands what recalling alone scores: the class, or the
mask, of the training image whose thumbnail is nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.metrics import bootstrap_mean_interval, wilson_interval

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
