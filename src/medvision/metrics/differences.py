r"""Differences of paired scores: interval, permutation p, and the probability of being better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from medvision.metrics.intervals import expanded_tail
from medvision.metrics.paired import Floats, PairedScore, resampled_scores

NUM_RESAMPLES = 4000
NUM_PERMUTATIONS = 9999  # the smallest p is then 0.0001
_ALL_UP_TO = 13  # units: 8192 exchanges are all there are, and are all made
_CHUNK = 2**20  # signs held in memory at once
_ROUNDING = 1e-9  # of sums that are equal but for the order of their addition
POWER, LEVEL = 0.8, 0.05


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How far B is from A on the same images; None where something cannot be told.

    Attributes:
        a: Score of A.
        b: Score of B.
        difference: ``b - a``.
        interval: Low and high end.
        p_value: Two-sided, of the exchange.
        num_permutations: How many exchanges stand behind it.
        probability_better: That B is truly better, on other images like these.
        standard_error: Of the difference, over images.
        images_needed: Test images with which a true difference of this size would be seen.
        num_images: How many images count.
        num_units: How many independent units they are: groups, or the images themselves.
        alike: Whether no unit differs.
    """

    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    num_permutations: int
    probability_better: float | None
    standard_error: float | None
    images_needed: int | None
    num_images: int
    num_units: int
    alike: bool


def paired_differences(
    scores: Mapping[str, PairedScore],
    pairs: Sequence[tuple[int, int]],
    *,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> dict[str, list[PairedDifference]]:
    r"""Compare contenders by every score, all pairs on the same resamples and exchanges.

    Interval: percentiles of the difference over resamples of whole units (groups, or images), the
    tails expanded as in ``bootstrap_mean_interval`` for the units of the smallest stratum. Where
    no unit differs a bootstrap shows no spread although there is doubt: at most a share
    :math:`1 - (\alpha/2)^{1/n}` of other units differs, by at most 1 each, and the interval
    reaches that far to either side. One unit says nothing of others: there is no interval then.

    p: each unit's parts in the two scores are exchanged or not, at random, and the difference
    counts where it lies as far from 0 as the observed one or farther; p = (1 + count) / (1 +
    exchanges). Up to 13 units all exchanges are made, and p is their share. It holds exactly if A
    and B are exchangeable, and for many units if only their scores are equal.

    Probability: the share of the resamples in which B is better, those without a difference
    counting half, corrected for few units as the interval is: with z the normal quantile of the
    share of the others, :math:`1 - T_{n-1}(z \sqrt{(n-1)/n})`. It is above 0.975 exactly where
    the 95 % interval lies above 0. In Bayesian words it is the posterior probability, with no
    opinion beforehand, that B has the higher score in the population from which the images were
    drawn. It is about other images and these very models, not about other seeds.

    Images needed: those with which a two-sided test at 5 % finds a true difference of the
    observed size in 8 of 10 cases; None where the observed one is below half its standard error,
    which tells nothing about its size.

    Args:
        scores: By name, all of the same contenders and units.
        pairs: Contenders A and B of every comparison, by number.
        confidence: Wished coverage :math:`1 - \alpha`, in (0, 1).
        num_resamples: Number of bootstrap resamples.
        num_permutations: Number of random exchanges.
        seed: Equal seeds give equal results.

    Returns:
        For every score a difference for each pair.

    Raises:
        ValueError: If there is no unit, or a score is undefined.
    """
    undefined = [name for name, score in scores.items() if np.isnan(score.scores).any()]
    if undefined:
        raise ValueError(f"expected scores that are defined, got NaN for {', '.join(undefined)}")
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)]
    resampled = resampled_scores(scores, num_resamples=num_resamples, rng=rngs[0])
    p_values, exchanges = _p_values(scores, pairs, num_permutations, rngs[1])
    return {
        name: [
            _difference(score, pair, resampled[name], p_value, exchanges, confidence)
            for pair, p_value in zip(pairs, p_values[name], strict=True)
        ]
        for name, score in scores.items()
    }


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjust p values so that each may be compared with one level for the whole family.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none may be smaller than
    one before it, or larger than 1.

    References:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 1979
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(order) else scaled
    return [float(value) for value in adjusted]


def _difference(
    score: PairedScore,
    pair: tuple[int, int],
    resampled: Floats,
    p_value: float,
    exchanges: int,
    confidence: float,
) -> PairedDifference:
    a, b = (float(score.scores[contender]) for contender in pair)
    alike = _alike(score, pair)
    spread = resampled[:, pair[1]] - resampled[:, pair[0]]
    spread = np.zeros(1) if alike else spread[~np.isnan(spread)]
    known = score.behind > 1 and len(spread) > 0
    error = float(spread.std() * np.sqrt(score.behind / (score.behind - 1))) if known else None
    return PairedDifference(
        a=a,
        b=b,
        difference=0.0 if alike else b - a,
        interval=_interval(spread, score.behind, confidence, alike=alike) if known else None,
        p_value=p_value,
        num_permutations=exchanges,
        probability_better=_probability_better(spread, score.behind) if known else None,
        standard_error=error,
        images_needed=_images_needed(b - a, error, score.num_images),
        num_images=score.num_images,
        num_units=int((score.counts.sum(axis=0) > 0).sum()),
        alike=alike,
    )


def _alike(score: PairedScore, pair: tuple[int, int]) -> bool:
    return bool(np.array_equal(score.parts[:, pair[0]], score.parts[:, pair[1]]))


def _interval(
    spread: Floats, behind: int, confidence: float, *, alike: bool
) -> tuple[float, float]:
    if alike:
        reach = 1 - ((1 - confidence) / 2) ** (1 / behind)
        return -reach, reach
    tail = expanded_tail(behind, confidence)
    low, high = np.quantile(spread, [tail, 1 - tail])
    return float(low), float(high)


def _probability_better(spread: Floats, behind: int) -> float:
    """Kept off 0 and 1, which no number of resamples can show."""
    not_better = (spread < 0).sum() + (spread == 0).sum() / 2
    normal = special.ndtri((not_better + 0.5) / (len(spread) + 1))
    student = normal * np.sqrt((behind - 1) / behind)
    return float(1 - special.stdtr(behind - 1, student))


def _images_needed(difference: float, error: float | None, num_images: int) -> int | None:
    if error is None or abs(difference) <= error / 2:
        return None
    seen = special.ndtri(1 - LEVEL / 2) + special.ndtri(POWER)
    return int(np.ceil(num_images * (seen * error / difference) ** 2))


def _p_values(
    scores: Mapping[str, PairedScore],
    pairs: Sequence[tuple[int, int]],
    num_permutations: int,
    rng: np.random.Generator,
) -> tuple[dict[str, list[float]], int]:
    """The p of every score and pair, and the number of exchanges."""
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    parts = np.concatenate([s.parts[:, second] - s.parts[:, first] for s in scores.values()], 1)
    # what equal sums may differ by; the observed difference counts itself as reached
    reached = np.abs(parts.sum(axis=0)) - _ROUNDING * np.abs(parts).sum(axis=0)
    count = np.zeros(parts.shape[1])
    everything = len(parts) <= _ALL_UP_TO
    for signs in _signs(len(parts), num_permutations, rng):
        count += (np.abs(signs @ parts) >= reached).sum(axis=0)
    exchanges = 2 ** len(parts) if everything else num_permutations
    p_values = count / exchanges if everything else (1 + count) / (1 + exchanges)
    rows = p_values.reshape(len(scores), len(pairs)).tolist()
    return dict(zip(scores, rows, strict=True)), exchanges


def _signs(size: int, num_permutations: int, rng: np.random.Generator) -> Iterator[Floats]:
    """-1 where a unit is exchanged, else 1, float64 (some, size) at a time."""
    if size <= _ALL_UP_TO:
        yield 1.0 - 2 * (np.arange(2**size)[:, None] >> np.arange(size) & 1)
        return
    rows = max(1, _CHUNK // size)
    for start in range(0, num_permutations, rows):
        shape = (min(rows, num_permutations - start), size)
        yield 1.0 - 2 * rng.integers(2, size=shape, dtype=np.int8)
