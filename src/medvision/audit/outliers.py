"""Which values lie far from all others, judged by what outliers cannot move."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_VALUES = 20
"""Among fewer values nothing is far from the rest."""

_SIGMA = 1.4826  # times the median absolute deviation: the standard deviation of a normal sample


def robust_distance(values: ArrayLike, *, floor: float) -> NDArray[np.float64]:
    """Return how many standard deviations each value lies from the median, (N,).

    The standard deviation is 1.4826 times the median absolute deviation, which half of the values
    can be wrong without moving.

    Args:
        values: Finite numbers (N,) on a scale where steps weigh alike.
        floor: Smallest standard deviation: values that are nearly all equal make no outliers of
            those that differ by a trifle.
    """
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        return numbers
    offsets = np.abs(numbers - np.median(numbers))
    return offsets / max(_SIGMA * float(np.median(offsets)), floor)


def far_rows(
    distance: NDArray[np.float64], *, limit: float, most: float = 0.02
) -> NDArray[np.intp]:
    """Return the rows farther than a limit, the farthest first.

    None where they are more than the share ``most``: that many are a second kind of image, or a
    wide distribution, not outliers; nor among fewer than ``MIN_VALUES``.
    """
    rows = np.flatnonzero(distance > limit)
    if len(distance) < MIN_VALUES or len(rows) > max(1, most * len(distance)):
        return rows[:0]
    return rows[np.argsort(-distance[rows], kind="stable")]
