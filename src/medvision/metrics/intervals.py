"""How far a mean would move with other patients: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

_CHUNK = 2**20  # draws held in memory at once


def bootstrap_mean_interval(
    values: ArrayLike,
    *,
    groups: Sequence[Hashable] | NDArray[np.generic] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    r"""Expanded percentile bootstrap interval of the mean.

    Values are resampled with replacement; with ``groups`` whole groups are, and the mean of a
    resample is the ratio of its sum to its number of values: images of one patient resemble each
    other, and treated as independent they promise an interval that is too narrow.

    A percentile interval stays within the range of the values, as a Dice score must, and exists
    where the BCa interval divides by zero. It is too narrow for few samples: its tails are
    therefore taken at :math:`\Phi(-\sqrt{n / (n - 1)}\, t_{n-1})` for n samples (or groups), which
    gives it the width of Student's t.

    Args:
        values: One number per image; NaN (a score that is undefined there) is left out.
        groups: The group of each value, such as its patient.
        confidence: Wished coverage, in (0, 1).
        num_resamples: Number of resamples.
        seed: Equal seeds give equal intervals.

    Returns:
        Low and high end. Equal values, a single value or a single group show no spread: both ends
        are then the mean. Without any value both are NaN.

    Raises:
        ValueError: If lengths differ, a value is infinite, or ``confidence`` is not in (0, 1).

    References:
        Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 2015,
        https://arxiv.org/abs/1411.5279
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if groups is not None and len(groups) != len(numbers):
        raise ValueError(f"expected {len(numbers)} groups, got {len(groups)}")
    if np.isinf(numbers).any():
        raise ValueError("expected finite values or NaN, got an infinite one")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")

    known = ~np.isnan(numbers)
    kept = numbers[known]
    if kept.size == 0:
        return float("nan"), float("nan")
    if kept.min() == kept.max():
        return float(kept[0]), float(kept[0])
    sums: NDArray[np.float64] = kept
    counts: NDArray[np.intp] | None = None
    if groups is not None:
        names = [group for group, keep in zip(groups, known, strict=True) if keep]
        rows = {group: row for row, group in enumerate(dict.fromkeys(names))}
        row_of_value = [rows[group] for group in names]
        sums = np.bincount(row_of_value, weights=kept).astype(np.float64)
        counts = np.bincount(row_of_value)
    if len(sums) == 1:
        return float(kept.mean()), float(kept.mean())

    means = _resampled_means(sums, counts, num_resamples, np.random.default_rng(seed))
    freedom = len(sums) - 1
    quantile = special.stdtrit(freedom, (1 - confidence) / 2)
    tail = special.ndtr(quantile * np.sqrt(len(sums) / freedom))
    ends = np.quantile(means, [tail, 1 - tail])
    low, high = ends.clip(kept.min(), kept.max())  # sums of a resample may round beyond
    return float(low), float(high)


def _resampled_means(
    sums: NDArray[np.float64],
    counts: NDArray[np.intp] | None,
    num_resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Mean of each resample of the groups; without counts every group is one value."""
    size = len(sums)
    chunk = max(1, _CHUNK // size)
    means = []
    for start in range(0, num_resamples, chunk):
        draws = rng.integers(size, size=(min(chunk, num_resamples - start), size))
        total = sums[draws].sum(axis=1)
        means.append(total / (size if counts is None else counts[draws].sum(axis=1)))
    return np.concatenate(means)
