"""Intervals of proportions, of images that belong to groups, and of what follows from them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

Interval = tuple[float, float]


def wilson_interval(successes: float, trials: float, *, confidence: float = 0.95) -> Interval:
    r"""Score interval of a proportion of independent trials.

    .. math:: \frac{s + z^2/2 \pm z \sqrt{s (n - s) / n + z^2/4}}{n + z^2}

    for s successes in n trials and the normal quantile z. It stays in [0, 1] and has a width
    where every trial ends alike. Images of one patient are not independent: with several of
    them it is too narrow, unless n is what ``effective_trials`` gives.

    Args:
        successes: s in [0, n].
        trials: n; of none nothing is known.
        confidence: Wished coverage, in (0, 1).

    Returns:
        Low and high end in [0, 1]; both NaN without trials.

    Raises:
        ValueError: If an argument is not of that kind.

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
    r"""Number of independent trials that say as much about a proportion as grouped ones do.

    .. math:: n_e = \frac{p (1 - p)}{v} \Big(\frac{z}{t_{G-1}}\Big)^2, \qquad
              v = \frac{G}{G - 1} \sum_g \frac{(s_g - p n_g)^2}{n^2}

    for G groups of n_g trials with s_g successes, p = s / n, and the quantiles of 95 %: v is the
    variance of p as a ratio of sums over groups. It is never more than n, and G where p is 0 or 1.
    Where every group holds one trial it is n; of a single group, 1.

    Args:
        right: Whether each trial is a success, (N,).
        group: Number of the group of each, (N,).

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
    if spread == 0:  # every group has the same share: no doubt beyond that of single trials
        return float(num_trials)
    caution = special.ndtri(0.975) / special.stdtrit(num_groups - 1, 0.975)
    found = share * (1 - share) * num_trials**2 / spread * caution**2
    return float(np.clip(found, 1, num_trials))


def ratio_interval(
    over: float, over_ends: Interval, under: float, under_ends: Interval
) -> Interval:
    r"""Interval of the ratio p / q of two independent proportions, from that of each.

    The method of variance estimates recovery: with ends (l, u) of p and (m, v) of q,

    .. math:: L = \frac{p q - \sqrt{p^2 q^2 - l v (2 p - l) (2 q - v)}}{v (2 q - v)}, \qquad
              U = \frac{p q + \sqrt{p^2 q^2 - u m (2 p - u) (2 q - m)}}{m (2 q - m)}

    It needs no logarithm, so that p or q may be 0: an end is then 0 or infinite.

    Args:
        over: p in [0, 1].
        over_ends: Its interval, within [0, 1].
        under: q in [0, 1].
        under_ends: Its interval.

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
