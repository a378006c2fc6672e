"""Confidence intervals of means (by bootstrap) and of proportions, also for grouped images."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Interval = tuple[float, float]
Floats = NDArray[np.float64]

Groups = Sequence[Hashable] | NDArray[np.generic] | None
"""Group of each image, such as its patient; if None, each image is its own group."""

_CHUNK = 2**20  # draws held in memory at once


def bootstrap_mean_interval(
    values: ArrayLike,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    r"""Expanded percentile bootstrap interval of the mean.

    Values are resampled with replacement. With ``groups``, whole groups are resampled and the mean
    of a resample is the ratio of its sum to its number of values: images of one patient resemble
    each other, and treating them as independent gives an interval that is too narrow.

    A percentile interval stays within the range of the values, as a Dice score must, and exists
    where the BCa interval divides by zero. It is too narrow for few samples. Its tails are
    therefore taken at :math:`\Phi(-\sqrt{n / (n - 1)}\, t_{n-1})` for n samples (or groups), which
    gives it the width of Student's t.

    Args:
        values: One number per image; NaN (undefined) is left out.
        groups: Group of each value, such as its patient.
        confidence: Nominal coverage, in (0, 1).
        num_resamples: Number of resamples.
        seed: Random seed; equal seeds give equal intervals.

    Returns:
        Low and high end. Equal values, a single value or a single group have no spread: both ends
        are then the mean. Without any value both are NaN.

    Raises:
        ValueError: If lengths differ, a value is infinite, or ``confidence`` is not in (0, 1).

    References:
        Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 2015,
        https://arxiv.org/abs/1411.5279
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    group = group_numbers(groups, len(numbers))
    if np.isinf(numbers).any():
        raise ValueError("expected finite values or NaN, got an infinite one")
    known = ~np.isnan(numbers)
    kept = numbers[known]
    if not kept.size:
        return float("nan"), float("nan")
    row = group_numbers(group[known], kept.size)
    sums, counts = np.bincount(row, weights=kept), np.bincount(row)
    ends = np.full(2, kept.mean())
    if len(sums) > 1 and kept.min() < kept.max():
        rng = np.random.default_rng(seed)
        means = [
            sums[draws].sum(axis=1) / (len(sums) if groups is None else counts[draws].sum(axis=1))
            for draws in resamples(len(sums), num_resamples, rng)
        ]
        ends = np.array(percentile_interval(np.concatenate(means), len(sums), confidence))
    low, high = ends.clip(kept.min(), kept.max())  # rounding may exceed the range
    return float(low), float(high)


def group_numbers(groups: Groups, num_images: int) -> NDArray[np.intp]:
    """Number the groups of the images, (N,), in order of first appearance.

    Raises:
        ValueError: If the number of groups and of images differ.
    """
    if groups is None:
        return np.arange(num_images)
    if len(groups) != num_images:
        raise ValueError(f"expected {num_images} groups, got {len(groups)}")
    rows = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    return np.array([rows[group] for group in groups], dtype=np.intp)


def expanded_tail(size: int, confidence: float) -> float:
    r"""Share of the resamples to leave out at each end, :math:`\Phi(-\sqrt{n/(n-1)}\, t_{n-1})`.

    Args:
        size: n, the number of samples (or groups) behind the score. A single one has no known
            spread, so nothing is left out.
        confidence: Nominal coverage, in (0, 1).

    Raises:
        ValueError: If ``confidence`` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    if size < 2:
        return 0.0
    quantile = special.stdtrit(size - 1, (1 - confidence) / 2)
    return float(special.ndtr(quantile * np.sqrt(size / (size - 1))))


def resamples(
    size: int, num_resamples: int, rng: np.random.Generator, *, width: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Draw the rows of bootstrap resamples in chunks (R, size).

    Args:
        size: Number of rows to draw from, and to draw.
        num_resamples: Total number of resamples.
        rng: Random generator; the chunk size does not change the draws.
        width: Number of values that the caller holds per resample, which limits R; ``size`` if
            None.
    """
    chunk = max(1, _CHUNK // (width or size))
    for start in range(0, num_resamples, chunk):
        yield rng.integers(size, size=(min(chunk, num_resamples - start), size))


def resampled_scores(
    scores: Callable[[Floats], Mapping[str, Floats]],
    size: int,
    num_resamples: int,
    rng: np.random.Generator,
    *,
    width: int | None = None,
) -> dict[str, Floats]:
    """Compute every score of every resample, (R, ...) each.

    Args:
        scores: Function that computes every score, (R, ...), from the number of times each row is
            drawn, (R, size).
        size: Number of rows to draw from, and to draw.
        num_resamples: Total number of resamples.
        rng: Random generator.
        width: Number of values that ``scores`` holds per resample.
    """
    parts = []
    for draws in resamples(size, num_resamples, rng, width=width):
        cells = draws + size * np.arange(len(draws))[:, None]  # one row of counts each
        times = np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
        parts.append(scores(times.astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(values: Floats, size: int, confidence: float) -> Interval:
    """Compute expanded percentiles of the resampled values, ignoring NaN; NaN if all are NaN.

    Args:
        values: Value of each resample, (R,).
        size: Number of samples (or groups) behind the score, as for ``expanded_tail``.
        confidence: Nominal coverage, in (0, 1).
    """
    defined = values[~np.isnan(values)]
    if not defined.size:
        return math.nan, math.nan
    tail = expanded_tail(size, confidence)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def wilson_interval(successes: float, trials: float, *, confidence: float = 0.95) -> Interval:
    r"""Wilson score interval of a proportion of independent trials.

    .. math:: \frac{s + z^2/2 \pm z \sqrt{s (n - s) / n + z^2/4}}{n + z^2}

    for s successes in n trials and the normal quantile z. It stays in [0, 1] and has a width even
    if all trials end alike. Images of one patient are not independent: with several of them the
    interval is too narrow, unless n comes from ``effective_trials``.

    Args:
        successes: s in [0, n].
        trials: n; may be 0.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Low and high end in [0, 1]; both NaN without trials.

    Raises:
        ValueError: If an argument is invalid.

    References:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected successes in [0, {trials}], got {successes}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    if trials == 0:
        return math.nan, math.nan
    z = float(special.ndtri((1 + confidence) / 2))
    failures, size = trials - successes, trials + z**2
    half = z * math.sqrt(successes * failures / trials + z**2 / 4)
    # exact at 0 and 1, where the two terms cancel
    low = (successes + z**2 / 2 - half) / size if successes else 0.0
    high = (successes + z**2 / 2 + half) / size if failures else 1.0
    return low, high


def effective_trials(right: NDArray[np.bool_], group: NDArray[np.intp]) -> float:
    r"""Number of independent trials with the same information on a proportion as grouped ones.

    .. math:: n_e = \frac{p (1 - p)}{v} \Big(\frac{z}{t_{G-1}}\Big)^2, \qquad
              v = \frac{G}{G - 1} \sum_g \frac{(s_g - p n_g)^2}{n^2}

    for G groups of n_g trials with s_g successes, p = s / n, and the quantiles of 95 %. v is the
    variance of p as a ratio of sums over groups. The result is at most n, and G where p is 0 or 1.
    It is n if every group holds one trial, and 1 for a single group.

    Args:
        right: True where the trial is a success, (N,).
        group: Index of the group of each trial, (N,).

    References:
        Korn and Graubard, Confidence Intervals for Proportions with Small Expected Number of
        Positive Counts Estimated from Survey Data, Survey Methodology 1998
    """
    _, place = np.unique(group, return_inverse=True)
    trials, successes = np.bincount(place), np.bincount(place, weights=right)
    num_trials, num_groups = len(right), len(trials)
    if num_groups in (num_trials, 1):
        return float(num_groups)
    share = successes.sum() / num_trials
    if share in (0.0, 1.0):
        return float(num_groups)
    spread = num_groups / (num_groups - 1) * ((successes - share * trials) ** 2).sum()
    if spread == 0:  # every group has the same share: no uncertainty beyond that of single trials
        return float(num_trials)
    caution = special.ndtri(0.975) / special.stdtrit(num_groups - 1, 0.975)
    found = share * (1 - share) * num_trials**2 / spread * caution**2
    return float(np.clip(found, 1, num_trials))


def ratio_interval(
    over: float, over_ends: Interval, under: float, under_ends: Interval
) -> Interval:
    r"""Interval of the ratio p / q of two independent proportions, from their intervals.

    Uses the method of variance estimates recovery: with ends (l, u) of p and (m, v) of q,

    .. math:: L = \frac{p q - \sqrt{p^2 q^2 - l v (2 p - l) (2 q - v)}}{v (2 q - v)}, \qquad
              U = \frac{p q + \sqrt{p^2 q^2 - u m (2 p - u) (2 q - m)}}{m (2 q - m)}

    It needs no logarithm, so p or q may be 0; an end is then 0 or infinite.

    Args:
        over: p in [0, 1].
        over_ends: Interval of p, within [0, 1].
        under: q in [0, 1].
        under_ends: Interval of q, within [0, 1].

    References:
        Donner and Zou, Closed-Form Confidence Intervals for Functions of the Normal Mean and
        Standard Deviation, Statistical Methods in Medical Research 2012
    """
    (l, u), (m, v) = over_ends, under_ends  # noqa: E741  as in the formula
    product = over * under
    below = l * (2 * over - l)
    root = math.sqrt(max(product**2 - below * v * (2 * under - v), 0))
    low = below / (product + root) if below else 0.0  # the formula, without its 0/0
    above = m * (2 * under - m)
    root = math.sqrt(max(product**2 - u * (2 * over - u) * above, 0))
    return low, (product + root) / above if above else math.inf
