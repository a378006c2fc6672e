"""Paired differences of scores: intervals, permutation tests, and spread over seeds.

Every score compared here is a mean over terms, each a sum of means over strata of images:

- a mean over images (Dice, IoU, accuracy): one term, one stratum of all images;
- balanced accuracy: a term for each class that occurs, with the images of the class as its only
  stratum;
- AUROC of a class: the images of the class and the other images are the strata. Each image counts
  with the share of the other stratum that it is ranked correctly against (its placement value),
  minus half the area, so that the two means add up to the area. For three or more classes there is
  a term for each.

Each image therefore adds a known part to the score of each contender. The permutation test
exchanges the parts of an image between two contenders; the bootstrap resamples images with
replacement. For means over images the permutation test exchanges the predictions themselves, and
without groups the test of two accuracies is McNemar's. The bootstrap of an AUROC keeps the
placements fixed, as DeLong's variance does.

References:
    DeLong et al., Comparing the Areas under Two or More Correlated ROC Curves, Biometrics 1988;
    Pesarin and Salmaso, Permutation Tests for Complex Data, Wiley 2010
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from medvision.metrics.intervals import Floats, Interval, percentile_interval, resampled_scores

Bools = NDArray[np.bool_]

Stratum = tuple[Bools, Floats]
"""Membership of each image, (N,), and its value for each contender, (N, M)."""


@dataclass(frozen=True, kw_only=True)
class PairedScore:
    """One score of M contenders on the same images, which belong to U units.

    Attributes:
        scores: Score of each contender, (M,); NaN where it is undefined.
        parts: Contribution of each unit to each score, (U, M); they sum to the scores.
        sums: Sum over the images of each unit in each stratum, (S, U, M).
        counts: Number of images of each unit in each stratum, (S, U).
        terms: Term of each stratum, (S,).
        num_images: Number of images that count.
        behind: Number of units behind the score: those of its smallest stratum.
        lower_is_better: If True, smaller scores are better.
        in_unit_interval: If True, the score of an image is in [0, 1].
    """

    scores: Floats
    parts: Floats
    sums: Floats
    counts: Floats
    terms: NDArray[np.intp]
    num_images: int
    behind: int
    lower_is_better: bool = False
    in_unit_interval: bool = True

    @classmethod
    def of(cls, terms: Sequence[Sequence[Stratum]], unit: NDArray[np.intp]) -> PairedScore:
        """Sum the values of the images of each unit.

        Args:
            terms: The strata of every term; a term with an empty stratum is left out.
            unit: Index of the unit of each image, (N,), counted from 0.
        """
        num_units = int(unit.max()) + 1 if len(unit) else 0
        contenders = terms[0][0][1].shape[1]
        kept = [term for term in terms if all(member.any() for member, _ in term)]
        strata = [stratum for term in kept for stratum in term]
        sums = np.zeros((len(strata), num_units, contenders))
        counts = np.zeros((len(strata), num_units))
        for row, (member, values) in enumerate(strata):
            counts[row] = np.bincount(unit[member], minlength=num_units)
            for column in range(contenders):
                sums[row, :, column] = np.bincount(
                    unit[member], values[member, column], minlength=num_units
                )
        sizes = np.maximum(counts.sum(axis=1), 1)[:, None]
        parts = (sums / sizes[:, None]).sum(axis=0) / max(len(kept), 1)
        scores = (sums.sum(axis=1) / sizes).sum(axis=0) / max(len(kept), 1)
        counted = np.logical_or.reduce([member for member, _ in strata] or [unit < 0])
        return cls(
            scores=scores if kept else np.full(contenders, np.nan),
            parts=parts,
            sums=sums,
            counts=counts,
            terms=np.repeat(np.arange(len(kept)), [len(term) for term in kept]),
            num_images=int(counted.sum()),
            behind=int((counts > 0).sum(axis=1).min(initial=num_units)) if kept else 0,
        )

    @property
    def weights(self) -> Floats:
        """Share of the score that rests on each unit, (U,); they sum to 1."""
        in_term = np.bincount(self.terms)[self.terms] if len(self.terms) else self.terms
        shares = self.counts / (self.counts.sum(axis=1) * in_term)[:, None]
        total: Floats = shares.sum(axis=0) / (self.terms.max(initial=0) + 1)
        return total

    def resampled(self, times: Floats) -> Floats:
        """Compute the scores of every resample, (R, M); NaN where no term is defined.

        Args:
            times: Number of times each unit was drawn, (R, U).
        """
        num_terms = int(self.terms.max(initial=-1)) + 1
        total = np.zeros((num_terms, len(times), self.sums.shape[2]))
        with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 is NaN: undefined
            for row, term in enumerate(self.terms):
                total[term] += times @ self.sums[row] / (times @ self.counts[row])[:, None]
            defined = ~np.isnan(total)
            return np.where(defined, total, 0).sum(axis=0) / defined.sum(axis=0)


def mean_score(
    values: ArrayLike,
    unit: NDArray[np.intp],
    *,
    lower_is_better: bool = False,
    in_unit_interval: bool = True,
) -> PairedScore:
    """Build the score of a mean over images, such as Dice.

    Args:
        values: One number per image and contender, (N, M). An image that is NaN (undefined) for
            any contender is left out for all.
        unit: Index of the unit of each image, (N,).
        lower_is_better: As for `PairedScore`.
        in_unit_interval: As for `PairedScore`.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known: Bools = np.asarray(~np.isnan(numbers).any(axis=1))
    score = PairedScore.of([[(known, numbers)]], unit)
    return replace(score, lower_is_better=lower_is_better, in_unit_interval=in_unit_interval)


def balanced_accuracy_score(
    right: ArrayLike, target: NDArray[np.int64], unit: NDArray[np.intp]
) -> PairedScore:
    """Build the mean recall of the classes that occur.

    Args:
        right: 1 where the predicted class is the true one, else 0, (N, M); means over several
            seeds lie between.
        target: Class indices, (N,).
        unit: Index of the unit of each image, (N,).
    """
    numbers = np.asarray(right, dtype=np.float64)
    return PairedScore.of([[(target == k, numbers)] for k in np.unique(target)], unit)


def auroc_score(
    placed: Mapping[int, Floats], target: NDArray[np.int64], unit: NDArray[np.intp]
) -> PairedScore:
    """Build the area under the ROC curve; over several classes its mean.

    Args:
        placed: Placement values of each class that counts, (N, M), from ``placements``; over
            several seeds their means.
        target: Class indices, (N,).
        unit: Index of the unit of each image, (N,).
    """
    terms = []
    for number, values in placed.items():
        positive = target == number
        half = values[positive].mean(axis=0) / 2 if positive.any() else np.zeros(values.shape[1])
        terms.append([(positive, values - half), (~positive, values - half)])
    return PairedScore.of(terms, unit)


NUM_RESAMPLES = 4000
NUM_PERMUTATIONS = 9999  # the smallest p is then 0.0001
MIN_UNITS = 6
"""Fewest units (groups, or images) in the smallest stratum for an interval: the exchanges of five
differ in 32 ways, so that no p is below 0.05."""

_ALL_UP_TO = 13  # units: with 8192 possible exchanges, all are made
_CHUNK = 2**20  # signs held in memory at once
_ROUNDING = 1e-9  # tolerance for sums that differ only in the order of addition
POWER, LEVEL = 0.8, 0.05


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Difference between A and B on the same images; None where it is unknown.

    Attributes:
        a: Score of A.
        b: Score of B.
        difference: ``b - a``.
        interval: Low and high end of the interval of the difference.
        p_value: Two-sided p value of the permutation test.
        num_permutations: Number of exchanges behind the p value.
        probability_better: Probability that B is truly better on other images like these.
        standard_error: Standard error of the difference, over images.
        images_needed: Number of test images needed to detect a true difference of this size.
        num_images: Number of images that count.
        num_units: Number of independent units: groups, or the images themselves.
        alike: If True, no unit differs.
    """

    a: float
    b: float
    difference: float
    interval: Interval | None
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

    Interval: the wider end of two methods on either side. (1) Percentiles of the difference over
    resamples of whole units (groups, or images), with tails expanded by
    ``expanded_tail`` for the units of the smallest stratum. (2) All differences that the
    permutation test below would not reject given the observed one; these are the percentiles of the
    difference among random halves of the units. Either alone is too narrow for some data: the first
    for few units that differ a lot, the second for skewed ones. The interval thus excludes 0 only
    where p is small. Where no unit differs, neither method shows spread although there is
    uncertainty: at most a share :math:`1 - (\alpha/2)^{1/n}` of other units differs, by at most 1
    each, and the interval extends that far to either side. There is no interval for fewer than
    ``MIN_UNITS`` units that differ, nor where no unit differs and scores are unbounded. No method
    foresees that one of the two fails on images of a kind that none of the units is.

    p: each unit's parts in the two scores are exchanged or not, at random, and the difference
    counts where it is at least as far from 0 as the observed one; p = (1 + count) / (1 +
    exchanges). Up to 13 units all exchanges are made, and p is the share that counts. It is exact
    if A and B are exchangeable (nearly exact for an AUROC, because its placements stay fixed), and
    for many units it is valid even if only their scores are equal.

    Probability: the share of resamples in which B is better, those without a difference counting
    half, corrected for few units like the interval: with z the normal quantile of the remaining
    share, :math:`1 - T_{n-1}(z \sqrt{(n-1)/n})`. In Bayesian terms it is the posterior
    probability, under a flat prior, that B has the higher score in the population from which the
    images were drawn. It refers to other images and these very models, not to other seeds.

    Images needed: the number with which a two-sided test at 5 % detects a true difference of the
    observed size in 8 of 10 cases; None where the observed difference is below half its standard
    error and its size is therefore unknown.

    Args:
        scores: Scores by name, all of the same contenders and units.
        pairs: Indices of contenders A and B of every comparison.
        confidence: Nominal coverage :math:`1 - \alpha`, in (0, 1).
        num_resamples: Number of bootstrap resamples.
        num_permutations: Number of random exchanges.
        seed: Random seed; equal seeds give equal results.

    Returns:
        One difference per pair, for every score.

    Raises:
        ValueError: If a score is undefined.

    References:
        Hartigan, Using Subsample Values as Typical Values, JASA 1969, for (2)
    """
    undefined = [name for name, score in scores.items() if np.isnan(score.scores).any()]
    if undefined:
        raise ValueError(f"expected scores that are defined, got NaN for {', '.join(undefined)}")
    rngs = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)]
    resampled = resampled_scores(
        lambda times: {name: score.resampled(times) for name, score in scores.items()},
        next(iter(scores.values())).counts.shape[1],
        num_resamples,
        rngs[0],
    )
    exchanged = _exchange(scores, pairs, num_permutations, rngs[1])
    return {
        name: [
            _difference(score, pair, resampled[name], next(exchanged), confidence) for pair in pairs
        ]
        for name, score in scores.items()
    }


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for the whole family, so that each can be compared with one level.

    The smallest of m is multiplied by m, the next by m - 1, and so on; each is at least as large
    as the previous one, and at most 1.

    References:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 1979
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(order) else scaled
    return [float(value) for value in adjusted]


class _Exchanged(NamedTuple):
    """Permutation result: p, number of exchanges, and differences among the exchanged units."""

    p_value: float
    num_exchanges: int
    among: Floats


def _difference(
    score: PairedScore,
    pair: tuple[int, int],
    resampled: Floats,
    exchanged: _Exchanged,
    confidence: float,
) -> PairedDifference:
    a, b = (float(score.scores[contender]) for contender in pair)
    alike = bool(np.array_equal(score.parts[:, pair[0]], score.parts[:, pair[1]]))
    spread = resampled[:, pair[1]] - resampled[:, pair[0]]
    spread = np.zeros(1) if alike else spread[~np.isnan(spread)]
    known = score.behind >= (2 if alike else MIN_UNITS) and len(spread) > 0
    tail = (1 - confidence) / 2
    interval = None
    if known and alike and score.in_unit_interval:
        interval = tail ** (1 / score.behind) - 1, 1 - tail ** (1 / score.behind)
    elif known and not alike:
        one = percentile_interval(spread, score.behind, confidence)
        other = _percentiles(exchanged.among, tail)
        interval = min(one[0], other[0]), max(one[1], other[1])
    error = float(spread.std() * np.sqrt(score.behind / (score.behind - 1))) if known else None
    return PairedDifference(
        a=a,
        b=b,
        difference=0.0 if alike else b - a,
        interval=interval,
        p_value=exchanged.p_value,
        num_permutations=exchanged.num_exchanges,
        probability_better=_probability_better(
            -spread if score.lower_is_better else spread, score.behind
        )
        if known
        else None,
        standard_error=error,
        images_needed=_images_needed(b - a, error, score.num_images),
        num_images=score.num_images,
        num_units=int((score.counts.sum(axis=0) > 0).sum()),
        alike=alike,
    )


def _percentiles(values: Floats, tail: float) -> Interval:
    """Values with at most a share ``tail`` at and beyond them, or the extremes if too few."""
    beyond = max(int(tail * (len(values) + 1)), 1)
    low, high = np.sort(values)[[beyond - 1, -beyond]]
    return float(low), float(high)


def _probability_better(spread: Floats, behind: int) -> float:
    """Probability that B is better, kept off 0 and 1, which resampling cannot show."""
    not_better = (spread < 0).sum() + (spread == 0).sum() / 2
    normal = special.ndtri((not_better + 0.5) / (len(spread) + 1))
    student = normal * np.sqrt((behind - 1) / behind)
    return float(1 - special.stdtr(behind - 1, student))


def _images_needed(difference: float, error: float | None, num_images: int) -> int | None:
    if error is None or abs(difference) <= error / 2:
        return None
    seen = special.ndtri(1 - LEVEL / 2) + special.ndtri(POWER)
    return int(np.ceil(num_images * (seen * error / difference) ** 2))


def _exchange(
    scores: Mapping[str, PairedScore],
    pairs: Sequence[tuple[int, int]],
    num_permutations: int,
    rng: np.random.Generator,
) -> Iterator[_Exchanged]:
    """Exchange A and B in the same units for every score and pair."""
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    parts = np.concatenate([s.parts[:, second] - s.parts[:, first] for s in scores.values()], 1)
    weights = np.stack([score.weights for score in scores.values()], axis=1)
    both = np.concatenate([parts, weights], axis=1)
    sums = np.concatenate([signs @ both for signs in _signs(len(both), num_permutations, rng)])
    total = parts.sum(axis=0)
    # rounding tolerance between equal sums; the observed difference counts itself as reached
    reached = np.abs(total) - _ROUNDING * np.abs(parts).sum(axis=0)
    exchanges, all_there_are = len(sums), len(parts) <= _ALL_UP_TO
    for column in range(parts.shape[1]):
        swapped, kept = sums[:, column], sums[:, parts.shape[1] + column // len(pairs)]
        count = int((np.abs(swapped) >= reached[column]).sum())
        some = kept < 1 - _ROUNDING  # False if no unit that counts was exchanged
        yield _Exchanged(
            p_value=count / exchanges if all_there_are else (1 + count) / (1 + exchanges),
            num_exchanges=exchanges,
            among=(total[column] - swapped[some]) / (1 - kept[some]),
        )


def _signs(size: int, num_permutations: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield signs, -1 where a unit is exchanged and else 1, in float64 chunks (some, size)."""
    if size <= _ALL_UP_TO:
        exchanged = np.arange(2**size)[:, None] >> np.arange(size) & 1
        yield 1 - 2 * exchanged.astype(np.float64)
        return
    rows = max(1, _CHUNK // size)
    for start in range(0, num_permutations, rows):
        shape = (min(rows, num_permutations - start), size)
        yield 1 - 2 * rng.integers(2, size=shape, dtype=np.int8).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Spread over seeds of two groups of runs; None where there are too few seeds.

    Attributes:
        std_a: Sample standard deviation (n - 1) of A's scores over its seeds.
        std_b: Sample standard deviation of B's scores.
        standard_error: Standard error of the difference of the two means over seeds.
        interval: Low and high end of the difference for other seeds, on the same images.
    """

    std_a: float | None
    std_b: float | None
    standard_error: float | None
    interval: Interval | None


def seed_spread(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> SeedSpread:
    """Compare the spread of two groups over their seeds, which are not paired.

    Args:
        a: Score of A with each of its seeds; a single one has no spread.
        b: Score of B with each of its seeds.
        confidence: Nominal coverage of Welch's interval, in (0, 1).

    References:
        Welch, The Generalization of Student's Problem, Biometrika 1947
    """
    std_a, std_b = (statistics.stdev(values) if len(values) > 1 else None for values in (a, b))
    if std_a is None or std_b is None:
        return SeedSpread(std_a=std_a, std_b=std_b, standard_error=None, interval=None)
    difference = statistics.fmean(b) - statistics.fmean(a)
    parts = std_a**2 / len(a), std_b**2 / len(b)
    error = sqrt(sum(parts))
    reach = 0.0
    if error > 0:
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
        reach = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
    return SeedSpread(
        std_a=std_a,
        std_b=std_b,
        standard_error=error,
        interval=(difference - reach, difference + reach),
    )
