r"""Who is better on the same images, and how sure that is.

Every score compared here is a mean over terms, each a sum of means over strata of images:

- a mean over images (Dice, IoU, accuracy): one term, one stratum of all images;
- balanced accuracy: a term for each class that occurs, its images the only stratum;
- AUROC of a class: its images and the rest are the strata, and an image counts with the share of
  the other stratum that it is on the right side of (its placement value), less half the area, so
  that the two means add up to the area; for three or more classes a term for each.

So each image adds a known part to the score of each contender. Exchanging the parts of an image
between two contenders is the permutation test; drawing images again with replacement is the
bootstrap. For means over images the exchange is that of the predictions themselves, and without
groups the test of two accuracies is McNemar's. The bootstrap of an AUROC keeps the placements
fixed, as the variance of DeLong does.

References:
    DeLong et al., Comparing the Areas under Two or More Correlated ROC Curves, Biometrics 1988;
    Pesarin and Salmaso, Permutation Tests for Complex Data, Wiley 2010
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.intervals import numbered, resamples

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Stratum = tuple[Bools, Floats]
"""Which images belong to it, (N,), and what each counts for each contender, (N, M)."""


@dataclass(frozen=True, kw_only=True)
class PairedScore:
    """One score of M contenders on the same images, which lie in U units.

    Attributes:
        scores: Of each contender, (M,); NaN where it is undefined.
        parts: What each unit adds to each score, (U, M): their sums are the scores.
        sums: Sums over the images of each unit of each stratum, (S, U, M).
        counts: Number of its images, (S, U).
        terms: The term of each stratum, (S,).
        num_images: How many images count.
        behind: Units on which the score rests: those of its smallest stratum.
    """

    scores: Floats
    parts: Floats
    sums: Floats
    counts: Floats
    terms: NDArray[np.intp]
    num_images: int
    behind: int

    @classmethod
    def of(cls, terms: Sequence[Sequence[Stratum]], unit: NDArray[np.intp]) -> PairedScore:
        """Add up what the images of each unit count.

        Args:
            terms: The strata of every term; a term with an empty stratum is left out.
            unit: Number of the unit of each image, (N,), counted from 0.
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
        """How much of the score rests on each unit, (U,): they add up to 1."""
        in_term = np.bincount(self.terms)[self.terms] if len(self.terms) else self.terms
        shares = self.counts / (self.counts.sum(axis=1) * in_term)[:, None]
        total: Floats = shares.sum(axis=0) / (self.terms.max(initial=0) + 1)
        return total

    def resampled(self, times: Floats) -> Floats:
        """The scores of every resample, (R, M); NaN where no term is defined.

        Args:
            times: How often each unit was drawn, (R, U).
        """
        num_terms = int(self.terms.max(initial=-1)) + 1
        total = np.zeros((num_terms, len(times), self.sums.shape[2]))
        with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 is NaN: undefined
            for row, term in enumerate(self.terms):
                total[term] += times @ self.sums[row] / (times @ self.counts[row])[:, None]
            defined = ~np.isnan(total)
            return np.where(defined, total, 0).sum(axis=0) / defined.sum(axis=0)


def mean_score(values: ArrayLike, unit: NDArray[np.intp]) -> PairedScore:
    """A mean over images, such as Dice.

    Args:
        values: One number per image and contender, (N, M); an image that is NaN (undefined) for
            any of them counts for none.
        unit: Number of the unit of each image, (N,).
    """
    numbers = np.asarray(values, dtype=np.float64)
    known: Bools = np.asarray(~np.isnan(numbers).any(axis=1))
    return PairedScore.of([[(known, numbers)]], unit)


def balanced_accuracy_score(
    right: ArrayLike, target: NDArray[np.int64], unit: NDArray[np.intp]
) -> PairedScore:
    """The mean recall of the classes that occur.

    Args:
        right: 1 where the predicted class is the true one, else 0, (N, M); shares over several
            seeds lie between.
        target: Class indices, (N,).
        unit: Number of the unit of each image, (N,).
    """
    numbers = np.asarray(right, dtype=np.float64)
    return PairedScore.of([[(target == k, numbers)] for k in np.unique(target)], unit)


def auroc_score(
    placed: Mapping[int, Floats], target: NDArray[np.int64], unit: NDArray[np.intp]
) -> PairedScore:
    """The area under the ROC curve; over several classes its mean.

    Args:
        placed: The placement values of each class whose area counts, (N, M), from ``placements``;
            over several seeds their means.
        target: Class indices, (N,).
        unit: Number of the unit of each image, (N,).
    """
    terms = []
    for number, values in placed.items():
        positive = target == number
        half = values[positive].mean(axis=0) / 2 if positive.any() else np.zeros(values.shape[1])
        terms.append([(positive, values - half), (~positive, values - half)])
    return PairedScore.of(terms, unit)


def placements(score: Floats, positive: Bools) -> Floats:
    """The share of the other side that each image is on the right side of, equal scores half.

    Their mean over the positives is the AUROC, and so is their mean over the negatives.

    Args:
        score: Finite numbers (N,), larger for what looks more positive.
        positive: bool (N,).

    Returns:
        (N,) in [0, 1]; NaN where the other side is empty.
    """
    found = np.full(len(score), np.nan)
    for side, sign in ((positive, 1), (~positive, -1)):
        others = np.sort(sign * score[~side])
        below, up_to = (np.searchsorted(others, sign * score[side], at) for at in ("left", "right"))
        found[side] = (below + up_to) / (2 * len(others)) if len(others) else np.nan
    return found


def units_of(groups: Sequence[Hashable], num_images: int) -> NDArray[np.intp]:
    """Number the groups in order of first appearance; without any each image is a unit.

    Args:
        groups: The group of each image, or empty.
        num_images: N.
    """
    return numbered(groups) if len(groups) else np.arange(num_images)


def resampled_scores(
    scores: Mapping[str, PairedScore], *, num_resamples: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """All scores of all contenders on the same resamples of the units, (R, M) each."""
    size = next(iter(scores.values())).counts.shape[1]
    parts: dict[str, list[Floats]] = {name: [] for name in scores}
    for draws in resamples(size, num_resamples, rng):
        cells = draws + size * np.arange(len(draws))[:, None]  # one row of counts each
        times = np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
        for name, score in scores.items():
            parts[name].append(score.resampled(times.astype(np.float64)))
    return {name: np.concatenate(part) for name, part in parts.items()}
