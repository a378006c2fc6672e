"""How far a mean would move with other patients: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

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
        row_of_value = numbered(names)
        sums = np.bincount(row_of_value, weights=kept).astype(np.float64)
        counts = np.bincount(row_of_value)
    if len(sums) == 1:
        return float(kept.mean()), float(kept.mean())

    means = _resampled_means(sums, counts, num_resamples, np.random.default_rng(seed))
    tail = expanded_tail(len(sums), confidence)
    ends = np.quantile(means, [tail, 1 - tail])
    low, high = ends.clip(kept.min(), kept.max())  # sums of a resample may round beyond
    return float(low), float(high)


def numbered(groups: Sequence[Hashable] | NDArray[np.generic]) -> NDArray[np.intp]:
    """Replace every group by its number, in order of first appearance."""
    rows = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    return np.array([rows[group] for group in groups], dtype=np.intp)


def expanded_tail(size: int, confidence: float) -> float:
    r"""Share of the resamples to leave out at each end, :math:`\Phi(-\sqrt{n/(n-1)}\, t_{n-1})`.

    Args:
        size: n, samples (or groups) behind the score. One alone says nothing about its spread:
            nothing is left out then.
        confidence: Wished coverage, in (0, 1).
    """
    if size < 2:
        return 0.0
    quantile = special.stdtrit(size - 1, (1 - confidence) / 2)
    return float(special.ndtr(quantile * np.sqrt(size / (size - 1))))


def resamples(
    size: int, num_resamples: int, rng: np.random.Generator, *, width: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Draw the rows of bootstrap resamples, (R, size), some resamples at a time.

    Args:
        size: Number of rows to draw from, and to draw.
        num_resamples: Number of resamples in all.
        rng: Where the draws come from; how they are cut into pieces does not change them.
        width: Values that the caller holds per resample, which limits R; ``size`` if not given.
    """
    chunk = max(1, _CHUNK // (width or size))
    for start in range(0, num_resamples, chunk):
        yield rng.integers(size, size=(min(chunk, num_resamples - start), size))


def _resampled_means(
    sums: NDArray[np.float64],
    counts: NDArray[np.intp] | None,
    num_resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Mean of each resample of the groups; without counts every group is one value."""
    means = []
    for draws in resamples(len(sums), num_resamples, rng):
        total = sums[draws].sum(axis=1)
        means.append(total / (len(sums) if counts is None else counts[draws].sum(axis=1)))
    return np.concatenate(means)
