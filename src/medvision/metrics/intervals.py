r"""Confidence intervals of means, proportions and functions of them, also for grouped images.

A 95 % interval is built so that 95 of 100 test sets contain the true value, also for few images and
rare classes, where a bootstrap contains it in 50 to 90 (``benchmarks/simulation.py`` counts it):

- ``mean_interval``: empirical likelihood, in which images with the worst possible value may exist
  although none was seen: 12 images without a missed lesion do not show that none is missed.
- ``proportion_interval``: Wilson's.
- ``mean_of_intervals``: mean over classes, from the interval of each (MOVER).
- ``auroc_interval``: Newcombe's.
- ``variance_interval``: Wilson's for other scores in a range, from a variance by jackknife.

Images of one group, such as a patient, resemble each other. They count as fewer independent images,
``effective_size``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Interval = tuple[float, float]
Floats = NDArray[np.float64]

UNKNOWN: Interval = (math.nan, math.nan)
"""Interval of a score that has none, because it is undefined or rests on too few images."""

Groups = Sequence[Hashable] | NDArray[np.generic] | None
"""Group of each image, such as its patient; if None, each image is its own group."""

MIN_UNBOUNDED = 100
"""Fewest images (or groups) for the interval of a mean without an upper bound."""

_CHUNK = 2**20  # draws held in memory at once


def mean_interval(
    values: ArrayLike,
    *,
    groups: Groups = None,
    weights: ArrayLike | None = None,
    lower: float | None = 0.0,
    upper: float | None = 1.0,
    variance: float | None = None,
    confidence: float = 0.95,
) -> Interval:
    r"""Empirical likelihood interval of a mean of values in [lower, upper].

    The interval holds the means of all distributions Q on [lower, upper] that explain the values
    nearly as well as the values themselves,

    .. math:: \sum_i w_i \log \frac{w_i}{Q(x_i)} \le \frac{c}{2 n_e}, \qquad c = t_{\nu}^2

    for equal weights w, n images and :math:`\nu = n - 1`. Q may have mass at both
    bounds where no value was seen: rare total failures move a mean and are missing from many small
    samples. For values of 0 and 1 this is the likelihood ratio interval of a proportion. It has a
    width even if all values are equal.

    With ``groups``, :math:`n_e` is the ``effective_size`` and :math:`\nu + 1 = n^2 / \sum_g n_g^2`
    the number of groups of equal size. For up to five, where t is large because the variance is
    hardly known, c is at most :math:`2 \log(2 / \alpha)`, as in the exact interval of a proportion
    of 1, and the interval reaches at least as far as Student's.

    Args:
        values: One number per image; NaN (undefined) is left out.
        groups: Group of each value, such as its patient.
        weights: Weight of each value in the mean, such as its number of pixels; each value is then
            a unit of its own.
        lower: Smallest possible value; None if there is none. The low end then rests on the
            smallest value seen, as in any other method, and needs 100 images (or groups).
        upper: Largest possible value; None likewise.
        variance: Variance of the weighted mean, if other things than the values add to it; None to
            estimate it from the values.
        confidence: Nominal coverage :math:`1 - \alpha`, in (0, 1).

    Returns:
        Low and high end in [lower, upper]; ``UNKNOWN`` for fewer than two values (or groups).

    Raises:
        ValueError: If lengths differ, a value is out of range, or ``confidence`` is not in (0, 1).

    References:
        Owen, Empirical Likelihood Ratio Confidence Intervals, Annals of Statistics 1990;
        Honda and Takemura, An Asymptotically Optimal Bandit Algorithm for Bounded Support Models,
        COLT 2010, for the unseen bound; Wu and Rao, Pseudo-Empirical Likelihood Ratio Confidence
        Intervals for Complex Surveys, Canadian Journal of Statistics 2006, for :math:`n_e`
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    group = group_numbers(groups, len(numbers))
    shares = np.ones(len(numbers)) if weights is None else np.asarray(weights, np.float64).ravel()
    if weights is not None and groups is not None:
        raise ValueError("expected weights or groups, got both")
    if len(shares) != len(numbers) or not (shares >= 0).all():
        raise ValueError(f"expected {len(numbers)} weights of 0 or more")
    _check_confidence(confidence)
    known = ~np.isnan(numbers) & (shares > 0)
    x, w = numbers[known], shares[known] / max(shares[known].sum(), np.finfo(float).tiny)
    bottom, top = -math.inf if lower is None else lower, math.inf if upper is None else upper
    if not ((x >= bottom - 1e-9) & (x <= top + 1e-9) & np.isfinite(x)).all():
        raise ValueError(
            f"expected finite values in [{bottom:g}, {top:g}] or NaN, got {x.min()} to {x.max()};"
            " set lower and upper to the range of the score"
        )
    group = group_numbers(group[known], len(x))
    num_groups = len(np.unique(group))
    if num_groups < (MIN_UNBOUNDED if None in (lower, upper) else 2):
        return UNKNOWN
    if weights is None:
        size, freedom = effective_size(x, group), _equal_groups(group) - 1
    else:
        size = _weighted_size(x, w, variance)
        freedom = max(1 / float((w**2).sum()) - 1, 1.0)
    t = -float(special.stdtrit(max(freedom, 1.0), (1 - confidence) / 2))
    exact = 2 * math.log(2 / (1 - confidence))
    distance = min(t**2, exact) / (2 * size)
    mean = float(w @ x)
    start, end = (
        float(x.min()) if lower is None else lower,
        float(x.max()) if upper is None else upper,
    )
    low = start + _lowest_mean(np.maximum(x - start, 0), w, distance)
    high = end - _lowest_mean(np.maximum(end - x, 0), w, distance)
    if t**2 > exact:
        half = t * math.sqrt(_variance(x, w) / size)
        low, high = min(low, mean - half), max(high, mean + half)
    return (max(low, bottom), min(high, top)) if low < high else UNKNOWN


def proportion_interval(
    right: ArrayLike,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
    equal_tails: bool = False,
) -> Interval:
    """Wilson's interval of the share of True, for grouped trials with ``effective_trials``.

    Args:
        right: True where the trial is a success, (N,).
        groups: Group of each trial, such as its patient.
        confidence: Nominal coverage, in (0, 1).
        equal_tails: If True, Jeffreys' interval: as wide, and missed as often on either side, which
            Wilson's is not near 0 and 1. ``mean_of_intervals`` adds up such misses.

    Returns:
        Low and high end in [0, 1]; ``UNKNOWN`` without trials, and for several trials of a single
        group.
    """
    successes = np.asarray(right, dtype=np.bool_).ravel()
    group = group_numbers(groups, len(successes))
    if not len(successes) or (len(successes) > 1 and len(np.unique(group)) == 1):
        return UNKNOWN
    trials = effective_trials(successes, group, confidence=confidence)
    interval = jeffreys_interval if equal_tails else wilson_interval
    return interval(float(successes.mean()) * trials, trials, confidence=confidence)


def mean_of_intervals(
    values: Sequence[float], intervals: Sequence[Interval], correlation: ArrayLike | None = None
) -> Interval:
    r"""Interval of the mean of K estimates, from the interval of each (MOVER).

    With ends :math:`(l_k, u_k)` of the estimates :math:`v_k`, the low end is

    .. math:: L = \bar v - \frac{1}{K} \sqrt{\sum_{jk} r_{jk} (v_j - l_j) (v_k - l_k)}

    and the high end is found in the same way. It keeps the asymmetry of the intervals that it is
    made of, and has a width where they do.

    Args:
        values: K estimates, such as the recall of each class.
        intervals: Interval of each; if one is unknown, so is the result.
        correlation: Correlation of the estimates, (K, K); if None, they are independent, such as
            the recalls of classes.

    References:
        Zou and Donner, Construction of Confidence Limits about Effect Measures: A General Approach,
        Statistics in Medicine 2008; Newcombe, MOVER-R Confidence Intervals for Ratios and Products
        of Two Independently Estimated Quantities, SMMR 2016, for the name
    """
    v, ends = np.asarray(values, np.float64), np.asarray(intervals, np.float64).reshape(-1, 2)
    if not len(v) or np.isnan(ends).any():
        return UNKNOWN
    r = np.eye(len(v)) if correlation is None else np.asarray(correlation, np.float64)
    below, above = v - ends[:, 0], ends[:, 1] - v
    down, up = (math.sqrt(max(float(side @ r @ side), 0.0)) / len(v) for side in (below, above))
    # a mean stays within the means of the ends, also where correlations are estimated
    low = max(float(v.mean()) - down, float(ends[:, 0].mean()))
    return low, min(float(v.mean()) + up, float(ends[:, 1].mean()))


def variance_interval(
    value: float,
    variance: float,
    *,
    size: float,
    bounds: Interval = (0.0, 1.0),
    confidence: float = 0.95,
) -> Interval:
    r"""Wilson's interval of a score in a range, from its variance.

    The score, scaled to p in [0, 1], is treated as a proportion of :math:`p (1 - p) / v` trials,
    with Student's t of ``size`` - 1 degrees of freedom instead of the normal quantile. There are at
    most 4 ``size`` trials, because the variance of nearly perfect scores is underestimated, and
    ``size`` trials where it is 0.

    Args:
        value: The score.
        variance: Its variance, such as from ``jackknife``.
        size: Number of images (or groups) that it mainly rests on, such as those of the rarest
            class.
        bounds: Smallest and largest possible score.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Low and high end within the bounds; ``UNKNOWN`` for a size below 2.

    References:
        Korn and Graubard, Confidence Intervals for Proportions with Small Expected Number of
        Positive Counts Estimated from Survey Data, Survey Methodology 1998
    """
    _check_confidence(confidence)
    if size < 2 or math.isnan(value) or math.isnan(variance):
        return UNKNOWN
    start, length = bounds[0], bounds[1] - bounds[0]
    share, spread = min(max((value - start) / length, 0.0), 1.0), variance / length**2
    trials = min(share * (1 - share) / spread, 4 * size) if spread > 0 else size
    if trials <= 0:
        trials = size
    t = -float(special.stdtrit(size - 1, (1 - confidence) / 2))
    low, high = _wilson(share, trials, t)
    return start + length * low, start + length * high


def auroc_interval(
    value: float,
    variance: float,
    *,
    positives: float,
    negatives: float,
    confidence: float = 0.95,
) -> Interval:
    r"""Newcombe's score interval of an AUROC, widened or narrowed to an estimated variance.

    The interval holds every area :math:`\theta` with :math:`(A - \theta)^2 \le k z^2 V(\theta)` for
    the area A and, with P positives, N negatives and :math:`M = (P + N) / 2 - 1`,

    .. math:: V(\theta) = \frac{\theta (1 - \theta)}{P N} \Big(1 + M \frac{1 - \theta}{2 - \theta}
              + M \frac{\theta}{1 + \theta}\Big)

    It needs no variance of its own, so it has a width even for a perfect ranking. V is right for
    distributions of one shape. Where the estimated variance v is larger, such as for positives of
    which some rank below all negatives, k is :math:`v / V(A)`; where it is smaller, it counts the
    more the more images there are: k is the mean of 1 and v / V(A) with weights 100 and
    :math:`\min(P, N) - 1`.

    Args:
        value: A in [0, 1].
        variance: v, such as DeLong's or from ``jackknife``.
        positives: P, the number of independent positives.
        negatives: N, the number of independent negatives.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        Low and high end in [0, 1]; ``UNKNOWN`` for fewer than two positives or negatives.

    References:
        Newcombe, Confidence Intervals for an Effect Size Measure Based on the Mann-Whitney
        Statistic, Part 2, Statistics in Medicine 2006 (method 5); Hanley and McNeil, The Meaning
        and Use of the Area under a ROC Curve, Radiology 1982
    """
    _check_confidence(confidence)
    fewer = min(positives, negatives)
    if fewer < 2 or math.isnan(value) or math.isnan(variance):
        return UNKNOWN
    z, mean = float(special.ndtri((1 + confidence) / 2)), (positives + negatives) / 2 - 1

    def expected(area: float) -> float:
        inner = 1 + mean * ((1 - area) / (2 - area) + area / (1 + area))
        return area * (1 - area) * inner / (positives * negatives)

    ratio = variance / expected(value) if 0 < value < 1 else 1.0
    scale = ratio if ratio > 1 else (100 + (fewer - 1) * ratio) / (100 + fewer - 1)

    def outside(area: float) -> float:
        return (value - area) ** 2 - scale * z**2 * expected(area)

    # V is 0 at both bounds, so the search for an end starts beside them
    near = 1e-12
    low = 0.0 if value <= near else _root(outside, near, min(value, 1 - near))
    high = 1.0 if value >= 1 - near else _root(outside, max(value, near), 1 - near)
    return low, high


def jackknife(
    scores: Callable[[Floats], Mapping[str, Floats]],
    group: NDArray[np.intp],
    *,
    max_blocks: int = 500,
) -> dict[str, Floats]:
    r"""Compute every score without each group in turn.

    The variance of a score is :math:`\frac{B - 1}{B} \sum_b (s_b - \bar s)^2` over the B scores
    that are returned. More groups than ``max_blocks`` are left out several at a time.

    Args:
        scores: Function that computes every score, (R,), from image weights (R, N).
        group: Index of the group of each image, (N,).
        max_blocks: Largest number of computations.

    Returns:
        The scores, (B,) each.

    References:
        Shao and Wu, A General Theory for Jackknife Variance Estimation, Annals of Statistics 1989
    """
    block = group % max_blocks
    num_blocks = int(block.max()) + 1 if len(block) else 0
    rows = max(1, _CHUNK // max(len(block), 1))
    parts = []
    for start in range(0, num_blocks, rows):
        left_out = np.arange(start, min(start + rows, num_blocks))
        parts.append(scores((block != left_out[:, None]).astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def jackknife_variance(left_out: Floats) -> float:
    """Variance of a score from its values without each block, (B,); NaN if one is undefined."""
    return float((len(left_out) - 1) * left_out.var()) if len(left_out) > 1 else math.nan


def effective_size(values: ArrayLike, group: NDArray[np.intp]) -> float:
    r"""Number of independent values whose mean varies as much as that of grouped ones.

    The variance of the mean of n values in G groups of :math:`n_g` is the larger of two estimates.
    (1) With intraclass correlation :math:`\rho` from the analysis of variance, at least 0,

    .. math:: v_1 = \frac{s^2}{n^2} \sum_g n_g (1 + (n_g - 1) \rho),

    which is right where one patient has many of the images, and therefore draws the mean towards
    itself. (2) From the sums over groups, which is right where the size of a group and its values
    are related,

    .. math:: v_2 = \frac{G}{G - 1} \frac{1}{n^2} \sum_g \Big(\sum_{i \in g} (x_i - \bar x)\Big)^2

    The result is :math:`s^2 / \max(v_1, v_2)` for the variance :math:`s^2` of single values: n if
    every group holds one value, and at most n. Where all values are equal, :math:`\rho` is unknown
    and taken as 1: :math:`n^2 / \sum_g n_g^2`.

    Args:
        values: Finite numbers, (N,).
        group: Index of the group of each value, (N,).

    References:
        Saha, Miller and Wang, A Comparison of Some Approximate Confidence Intervals for a Single
        Proportion for Clustered Binary Outcome Data, International Journal of Biostatistics 2016;
        Cochran, Sampling Techniques, 1977, for (2); Kish, Survey Sampling, 1965
    """
    x = np.asarray(values, dtype=np.float64)
    _, place = np.unique(group, return_inverse=True)
    sizes = np.bincount(place).astype(np.float64)
    num, num_groups = len(x), len(sizes)
    if num_groups in (num, 1):
        return float(num_groups)
    apart = x - x.mean()
    total = float((apart**2).sum())
    alike = num**2 / float((sizes**2).sum())
    if total <= 1e-18 * num:
        return alike
    sums = np.bincount(place, weights=apart)
    between = float((sums**2 / sizes).sum())
    within = max(total - between, 0.0)
    usual = (num - float((sizes**2).sum()) / num) / (num_groups - 1)
    per_group, per_value = between / (num_groups - 1), within / (num - num_groups)
    related = (per_group - per_value) / (per_group + (usual - 1) * per_value)
    inflation = num + float((sizes * (sizes - 1)).sum()) * min(max(related, 0.0), 1.0)
    single = total / (num - inflation / num)
    variance = max(
        single * inflation / num**2,
        num_groups / (num_groups - 1) * float((sums**2).sum()) / num**2,
    )
    return min(single / variance, float(num))


def effective_trials(
    right: NDArray[np.bool_], group: NDArray[np.intp], *, confidence: float = 0.95
) -> float:
    r"""Number of independent trials with the same information on a proportion as grouped ones.

    It is the ``effective_size`` times :math:`(z / t_\nu)^2` with :math:`\nu = n^2 / \sum_g n_g^2 -
    1`, one less than the number of groups of equal size, because the variance between few groups is
    hardly known. It is n if every group holds one trial, and 1 for a single group.

    Args:
        right: True where the trial is a success, (N,).
        group: Index of the group of each trial, (N,).
        confidence: Nominal coverage of the interval, in (0, 1).

    References:
        Korn and Graubard, Confidence Intervals for Proportions with Small Expected Number of
        Positive Counts Estimated from Survey Data, Survey Methodology 1998
    """
    num_groups = len(np.unique(group))
    if num_groups in (len(right), 1):
        return float(num_groups)
    found = effective_size(right, group)
    if right.all() or not right.any():
        return found
    tail, freedom = (1 - confidence) / 2, max(_equal_groups(group) - 1, 1.0)
    caution = float(special.ndtri(tail) / special.stdtrit(freedom, tail)) ** 2
    return min(max(found * caution, 1.0), float(len(right)))


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
    _check_confidence(confidence)
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
    _check_confidence(confidence)
    if trials == 0:
        return math.nan, math.nan
    return _wilson(successes / trials, trials, float(special.ndtri((1 + confidence) / 2)))


def jeffreys_interval(successes: float, trials: float, *, confidence: float = 0.95) -> Interval:
    r"""Jeffreys interval of a proportion of independent trials, exact at 0 and 1.

    Quantiles of Beta(s + 1/2, n - s + 1/2). For no successes the high end, and for no failures the
    low end, is that of Clopper and Pearson.

    Args:
        successes: s in [0, n].
        trials: n above 0.
        confidence: Nominal coverage, in (0, 1).

    References:
        Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, Statistical Science
        2001 (the modified Jeffreys interval)
    """
    _check_confidence(confidence)
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"expected successes in [0, {trials}], got {successes}")
    failures, tail = trials - successes, (1 - confidence) / 2
    bound = tail ** (1 / trials)
    if successes == 0 or failures == 0:
        return (0.0, 1 - bound) if successes == 0 else (bound, 1.0)
    ends = special.betaincinv(successes + 0.5, failures + 0.5, [tail, 1 - tail])
    return float(ends[0]), float(ends[1])


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


def _lowest_mean(x: Floats, w: Floats, distance: float) -> float:
    r"""Smallest mean of a distribution on [0, inf) within a Kullback-Leibler distance of weights.

    Lagrange's condition is :math:`Q(x_i) \propto w_i / (x_i + \tau)` with :math:`\tau \ge 0`. Mass
    at 0, where no value is, needs :math:`\tau = 0`: then the mean is the geometric mean of the
    values times :math:`e^{-d}`.

    Args:
        x: Values of 0 or more, (N,).
        w: Weights above 0 that sum to 1, (N,).
        distance: d above 0.
    """
    scale = float(x.max())
    if scale <= 0:
        return 0.0
    y = x / scale

    def beyond(log_tau: float) -> float:
        moved = y + math.exp(log_tau)
        return float(w @ np.log(moved) + np.log(w @ (1 / moved))) - distance

    if y.min() > 0 and float(w @ np.log(y) + np.log(w @ (1 / y))) <= distance:
        return scale * math.exp(float(w @ np.log(y)) - distance)
    least, most = -60.0, 2.0
    while beyond(most) > 0:
        most += 2
    if beyond(least) < 0:  # zeros of so little weight that all mass may lie on them
        return 0.0
    tau = math.exp(optimize.brentq(beyond, least, most, xtol=1e-9))
    q = w / (y + tau)
    return scale * float(q @ y / q.sum())


def _equal_groups(group: NDArray[np.intp]) -> float:
    """Number of groups of equal size that weigh the same, n^2 over the sum of n_g^2."""
    sizes = np.bincount(np.unique(group, return_inverse=True)[1]).astype(np.float64)
    return float(len(group) ** 2 / (sizes @ sizes))


def _variance(x: Floats, w: Floats) -> float:
    """Variance of single values from a weighted sample."""
    return float(w @ (x - w @ x) ** 2 / (1 - w @ w))


def _weighted_size(x: Floats, w: Floats, variance: float | None) -> float:
    """Number of equally weighted values whose mean varies as much, as in ``effective_size``."""
    alike = 1 / float(w @ w)
    apart = w * (x - w @ x)
    spread = len(x) / (len(x) - 1) * float(apart @ apart) if variance is None else variance
    single = _variance(x, w)
    return min(alike, single / spread) if min(spread, single) > 1e-18 else alike


def _wilson(share: float, trials: float, z: float) -> Interval:
    """Wilson's interval of a proportion, for any quantile."""
    successes, failures = share * trials, (1 - share) * trials
    half, size = z * math.sqrt(successes * failures / trials + z**2 / 4), trials + z**2
    # exact at 0 and 1, where the two terms cancel
    low = (successes + z**2 / 2 - half) / size if successes else 0.0
    high = (successes + z**2 / 2 + half) / size if failures else 1.0
    return low, high


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Find where a function changes its sign; the end at which it is smaller if it does not."""
    at_low, at_high = function(low), function(high)
    if at_low * at_high >= 0:
        return low if at_low < at_high else high
    return float(optimize.brentq(function, low, high, xtol=1e-12))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
