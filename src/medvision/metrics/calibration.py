"""Calibration error, Brier score and temperature scaling.

The confidence of an image is the probability of its most probable class, and it is right if that
class is the true one. For two classes the most probable class is class 1 where p >= 0.5, regardless
of the threshold of the predictions; for more classes it has the largest probability, the first on
ties. Confidences are grouped into 15 bins ((b-1)/15, b/15] of equal width.

The Brier score needs no bins: it is the mean squared distance between probabilities and truth, and
falls with better calibration and with better discrimination.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from medvision.console import counted
from medvision.errors import MedvisionError
from medvision.metrics.intervals import (
    UNKNOWN,
    Groups,
    Interval,
    effective_trials,
    group_numbers,
)

NUM_BINS = 15
"""Number of bins, as in Guo et al. and most papers that compare with them."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def calibration_bins(probability: Floats, target: Ints) -> tuple[Floats, Floats, Ints]:
    """Compute mean confidence and accuracy of every bin, for a plot.

    Args:
        probability: Probabilities (N, K), rows summing to 1.
        target: Class indices (N,).

    Returns:
        Mean confidence, accuracy and number of images, each (15,); an empty bin has NaN and 0.
    """
    confidence, right, place = _confidence(probability, target)
    count = np.bincount(place, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        return (
            np.bincount(place, weights=confidence, minlength=NUM_BINS) / count,
            np.bincount(place, weights=right, minlength=NUM_BINS) / count,
            count,
        )


class Calibration:
    r"""Images with their probabilities, prepared once and scored under many weightings.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|
              = \frac{1}{n} \sum_b \Big| \sum_{i \in b} (\mathrm{right}_i - \mathrm{conf}_i) \Big|

    Each row of ``gaps`` holds the inner term of its image in the column of its bin, so that the
    error of a resample is one product with its weights.

    The Brier score is, for two classes, the mean of :math:`(p_i - y_i)^2` for the probability of
    class 1, in [0, 1], as in most medical papers; for K >= 3 the mean of
    :math:`\sum_k (p_{ik} - y_{ik})^2` as Brier defined it, in [0, 2].

    Args:
        probability: Probabilities (N, K), rows summing to 1.
        target: Class indices (N,).

    Attributes:
        confidence: Probability of the most probable class, (N,).
        right: 1 where the most probable class is the true one, else 0, (N,).
        place: Bin of each image, (N,).
        gaps: Signed error of each image in the column of its bin, (N, 15).
        squared_errors: Contribution of each image to the Brier score, (N,).

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
        https://arxiv.org/abs/1706.04599; Brier, Verification of Forecasts Expressed in Terms of
        Probability, Monthly Weather Review 1950
    """

    def __init__(self, probability: Floats, target: Ints) -> None:
        self.confidence, right, self.place = _confidence(probability, target)
        self.right: Floats = right.astype(np.float64)
        rows, num_classes = np.arange(len(target)), probability.shape[1]
        self.gaps = np.zeros((len(target), NUM_BINS))
        self.gaps[rows, self.place] = self.right - self.confidence
        if num_classes == 2:
            self.squared_errors: Floats = (probability[:, 1] - target) ** 2
        else:
            self.squared_errors = ((probability - np.eye(num_classes)[target]) ** 2).sum(axis=1)

    def __len__(self) -> int:
        return len(self.gaps)

    def scores(self, weights: NDArray[np.number] | None = None) -> dict[str, Floats]:
        """Compute ``ece`` and ``brier``, float64 (R,) each; NaN without images.

        Args:
            weights: Number of times each image occurs in each of R resamples, (R, N). If None, each
                image occurs once and R = 1.
        """
        times = np.ones((1, len(self))) if weights is None else np.asarray(weights, np.float64)
        total = times.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return {
                "ece": np.abs(times @ self.gaps).sum(axis=1) / total,
                "brier": times @ self.squared_errors / total,
            }


MIN_IMAGES = 10
"""Fewest images (or independent ones that grouped images are worth) for an interval of the ECE."""

FEW_IN_BINS = 50
"""With fewer images, most bins hold one or two, and their accuracies hardly tell the true ones."""

_STEPS = np.concatenate([[0.0], np.geomspace(0.03, 1, 14)])  # of the way to the largest error


def calibration_error_interval(
    images: Calibration,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
    num_samples: int = 500,
    seed: int = 0,
) -> Interval:
    r"""Interval of the expected calibration error (ECE), by inverting a test of its value.

    The ECE of a sample is too large by chance, that of a perfectly calibrated network is never 0,
    and resamples add the same error once more: percentiles of a bootstrap contain the true value in
    as few as 4 of 10 cases. Here a true ECE belongs to the interval if a sample from a network with
    that error has an ECE at least as large, and at most as large, as the observed one with a
    probability of :math:`\alpha / 2` each. Samples draw n images with their bins and mean
    confidences, and their correctness from the accuracy of the bin.

    There are many networks with one ECE. Two families are tried, from no error to a large one, and
    the interval holds the values of either: the error of each bin a multiple of the observed one,
    and every bin too confident by the same amount.

    For fewer than ``FEW_IN_BINS`` images the probability is half of that. With ``groups``, samples
    hold the number of independent images that the grouped ones are worth,
    ``effective_trials`` of correctness. At 0, the bound of the range, coverage is
    :math:`1 - \alpha / 2`.

    Args:
        images: The images.
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage :math:`1 - \alpha`, in (0, 1).
        num_samples: Number of samples for each true value tried.
        seed: Random seed; equal seeds give equal intervals.

    Returns:
        Low and high end in [0, 1], which include the observed ECE unless that is too large by
        chance; ``UNKNOWN`` for fewer than ``MIN_IMAGES`` images, or independent ones.

    References:
        Carpenter, Test Inversion Bootstrap Confidence Intervals, JRSS B 1999; Roelofs et al.,
        Mitigating Bias in Calibration Error Estimation, AISTATS 2022, for the bias
    """
    tail = (1 - confidence) / 2
    if not 0 < tail < 0.5:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    group = group_numbers(groups, len(images))
    size = round(effective_trials(images.right > 0, group)) if len(images) else 0
    if size < MIN_IMAGES:
        return UNKNOWN
    tail /= 1 if size >= FEW_IN_BINS else 2
    counts = np.bincount(images.place, minlength=NUM_BINS)
    used = counts > 0
    share = counts[used] / len(images)
    said, seen = (
        np.bincount(images.place, values, NUM_BINS)[used] / counts[used]
        for values in (images.confidence, images.right)
    )
    observed = float(share @ np.abs(seen - said))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(size, share, size=num_samples)
    lows, highs = [], [observed]
    for largest in (4 * (seen - said), np.full(len(said), -1.0)):
        accuracy = np.clip(said + _STEPS[:, None] * largest, 0, 1)
        true = np.abs(accuracy - said) @ share
        found = np.array(
            [np.abs(rng.binomial(drawn, bins) - drawn * said).sum(axis=1) for bins in accuracy]
        )
        found /= size
        reached = (found >= observed - 1e-12).mean(axis=1)
        not_beyond = (found <= observed + 1e-12).mean(axis=1)
        first = np.flatnonzero(reached >= tail)
        last = np.flatnonzero(not_beyond >= tail)
        if len(first):
            lows.append(_crossing(true, reached, int(first[0]), -1, tail))
        if len(last):
            highs.append(_crossing(true, not_beyond, int(last[-1]), 1, tail))
    return min(lows, default=observed), max(highs)


def _crossing(true: Floats, chance: Floats, inside: int, step: int, tail: float) -> float:
    """Interpolate where a probability falls to ``tail`` beyond the last value inside."""
    outside = inside + step
    if not 0 <= outside < len(true):
        return float(true[inside])
    way = (chance[inside] - tail) / (chance[inside] - chance[outside])
    return float(true[inside] + way * (true[outside] - true[inside]))


def _confidence(probability: Floats, target: Ints) -> tuple[Floats, NDArray[np.bool_], Ints]:
    """Compute confidence, correctness and bin of every image, (N,) each."""
    if probability.shape[1] == 2:
        most_probable = (probability[:, 1] >= 0.5).astype(np.int64)
    else:
        most_probable = probability.argmax(axis=1)
    confidence = probability[np.arange(len(target)), most_probable]
    inner_edges = np.arange(1, NUM_BINS) / NUM_BINS
    return confidence, most_probable == target, np.digitize(confidence, inner_edges, right=True)


STEEPEST = 100.0
"""Largest slope that is looked for: beyond it the classes are separated."""


def calibration_line(
    probability: ArrayLike,
    positive: ArrayLike,
    *,
    groups: Groups = None,
    confidence: float = 0.95,
) -> dict[str, float | Interval]:
    r"""Compute calibration slope and intercept of one class, with their intervals.

    .. math:: P(y = 1) = \mathrm{sigmoid}(a + b\, \mathrm{logit}(p))

    The slope is b. The intercept is a for b fixed to 1, calibration in the large. An interval holds
    the values whose deviance exceeds that of the estimate by at most the square of Student's
    quantile for n - 1 degrees of freedom, which follows the skew of few positives. With groups, n
    is their number, and deviances are divided by the ratio of the robust to the model's variance,
    if it is above 1.

    Args:
        probability: Probability p of the class (N,), in [0, 1]; values that float32 rounds to 0 or
            1 count as the nearest ones inside.
        positive: True for images of the class, (N,).
        groups: Group of each image, such as its patient.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        ``calibration_slope`` and ``calibration_intercept``, and under ``<name>_ci95`` low and high
        end. All NaN unless both classes occur; the slope and its interval also where p separates
        the classes, even if images of both share one p, or is the same for all images. An end
        beyond the largest slope is NaN.

    References:
        Cox, Two further applications of a model for binary regression, Biometrika 1958; Van Calster
        et al., Calibration: the Achilles heel of predictive analytics, BMC Medicine 2019
    """
    p, y = np.asarray(probability, np.float64), np.asarray(positive, np.bool_)
    group = group_numbers(groups, len(y))
    nan = float("nan")
    unknown: dict[str, float | Interval] = {
        "calibration_slope": nan,
        "calibration_slope_ci95": (nan, nan),
        "calibration_intercept": nan,
        "calibration_intercept_ci95": (nan, nan),
    }
    if not y.any() or y.all():
        return unknown
    x = np.log(np.maximum(p, 2.0**-149)) - np.log(np.maximum(1 - p, 2.0**-25))
    num_groups = len(np.unique(group))
    if num_groups < 2:
        return unknown
    limit = special.stdtrit(num_groups - 1, (1 + confidence) / 2) ** 2

    def intercept(offset: Floats) -> float:
        """Intercept with the highest likelihood beside an offset."""
        far = 40 + float(np.abs(offset).max())
        return _zero(lambda a: (special.expit(offset + a) - y).sum(), -far, far)

    def deviance(line: Floats) -> float:
        return float(-2 * (special.log_expit(np.where(y, line, -line))).sum())

    def inflation(line: Floats, direction: Floats) -> float:
        """Ratio of the robust to the model's variance of the coefficient of a direction."""
        chance = special.expit(line)
        weight = chance * (1 - chance)
        of_group = np.bincount(group, weights=(y - chance) * direction)
        robust = (of_group**2).sum() * num_groups / (num_groups - 1)
        return max(1.0, float(robust / (weight * direction**2).sum()))

    found = dict(unknown)
    best = intercept(x)
    scale = inflation(x + best, np.ones_like(x))
    found["calibration_intercept"] = best
    found["calibration_intercept_ci95"] = _ends(
        lambda a: deviance(x + a), best, limit * scale, reach=60.0
    )

    def profile(b: float) -> Floats:
        return b * x + intercept(b * x)

    def slope_of_likelihood(b: float) -> float:
        return float(((special.expit(profile(b)) - y) * x).sum())

    if np.ptp(x) == 0 or slope_of_likelihood(STEEPEST) < 0 or slope_of_likelihood(-STEEPEST) > 0:
        return found
    steep = _zero(slope_of_likelihood, -STEEPEST, STEEPEST)
    line = profile(steep)
    weight = special.expit(line) * special.expit(-line)
    if not weight.sum():
        return found
    direction = x - np.average(x, weights=weight)
    if weight @ direction**2 < STEEPEST**-2:  # a standard error above the largest slope
        return found
    scale = inflation(line, direction)
    found["calibration_slope"] = steep
    found["calibration_slope_ci95"] = _ends(
        lambda b: deviance(profile(b)), steep, limit * scale, reach=STEEPEST
    )
    return found


def _zero(function: Callable[[float], float], low: float, high: float) -> float:
    """Find where a function changes its sign; near-steps need many iterations."""
    return float(optimize.brentq(function, low, high, xtol=1e-9, maxiter=1000))


def _ends(
    deviance: Callable[[float], float], best: float, limit: float, *, reach: float
) -> Interval:
    """Find where the deviance exceeds its smallest value by a limit; NaN beyond the reach."""
    smallest = deviance(best)

    def excess(value: float) -> float:
        return deviance(value) - smallest - limit

    low, high = (
        _zero(excess, *sorted((best, far))) if excess(far) > 0 else float("nan")
        for far in (best - reach, best + reach)
    )
    return low, high


LOWEST, HIGHEST = 0.05, 20.0
"""Range of the temperature: beyond it, probabilities are nearly uniform or nearly certain."""

FEW_IMAGES = 100
"""With fewer images, the temperature is off by more than two fifths in one case of twenty."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        value: T in [0.05, 20]; above 1 the network was overconfident, below 1 underconfident.
        num_images: Number of images used for the fit.
        note: Limitation of the fit, a sentence without a full stop; empty if there is none.
    """

    value: float
    num_images: int
    note: str = ""


def fit_temperature(logits: ArrayLike, target: ArrayLike) -> Temperature:
    r"""Fit the temperature T with the smallest mean negative log-likelihood on these images.

    .. math:: L(T) = -\frac{1}{n} \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}

    Fit it on validation images. L is convex in 1 / T, so its only minimum is where its slope is
    zero. There is no minimum where every image is right: L then keeps falling as T approaches 0,
    which would make the network certain. T is then the value at which the mean confidence (the
    probability of the most probable class) is (n + 1) / (n + 2), as Laplace's rule of succession
    gives for n right answers out of n. Nor is there a minimum where the logits of the true class
    are no larger than those of the others: T is then the upper bound.

    Args:
        logits: Unnormalised log-probabilities z (N, K), finite; for two classes columns 0 and the
            logit of class 1.
        target: Class indices y in [0, K), (N,).

    Raises:
        MedvisionError: If all images are of one class.
        ValueError: If an argument is invalid.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
        https://arxiv.org/abs/1706.04599
    """
    scores, labels = np.asarray(logits, np.float64), np.asarray(target)
    _check(scores, labels)
    if len(np.unique(labels)) < 2:
        raise MedvisionError(
            "a temperature cannot be fitted to images of one class",
            where="validation images",
            hint="use a validation split with more than one class",
        )
    rows = np.arange(len(labels))
    ahead = scores - scores[rows, labels][:, None]  # relative to the true class: 0 for itself

    def slope(log_beta: float) -> float:
        """Slope of L over 1 / T; it never falls as 1 / T grows."""
        weights = special.softmax(np.exp(log_beta) * ahead, axis=1)
        return float((weights * ahead).sum(axis=1).mean())

    def too_sure(log_beta: float) -> float:
        confidence = special.softmax(np.exp(log_beta) * scores, axis=1).max(axis=1)
        return float(confidence.mean()) - (len(labels) + 1) / (len(labels) + 2)

    all_right = bool((ahead.max(axis=1) <= 0).all())
    value = _root(too_sure if all_right else slope)
    return Temperature(
        value=value, num_images=len(labels), note=_note(value, len(labels), all_right=all_right)
    )


def apply_temperature(logits: ArrayLike, temperature: float) -> Floats:
    """Compute class probabilities softmax(z / T), (N, K), rows summing to 1.

    The most probable class is the same at every T.

    Args:
        logits: Unnormalised log-probabilities z (N, K), finite.
        temperature: T above 0; 1 changes nothing.

    Raises:
        ValueError: If an argument is invalid.
    """
    scores = np.asarray(logits, np.float64)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"expected finite logits (N, K), got {scores.shape} or non-finite values")
    if not (temperature > 0 and np.isfinite(temperature)):
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    probability: Floats = special.softmax(scores / temperature, axis=1)
    return probability


def logits_of(probability: ArrayLike) -> Floats:
    r"""Compute logits from probabilities: their logarithms.

    Logits are determined up to a constant per image, which softmax cancels, so that
    :math:`p_k^{1/T} / \sum_j p_j^{1/T}` are exactly the probabilities at T. Runs of older versions
    stored them in float32. Values that it rounded to 0 are replaced by the smallest number it
    distinguishes from 0, for 1 - p of two classes :math:`2^{-25}`: such logits are nearer to 0 than
    those of the network were.

    Args:
        probability: Probabilities (N, K) as a run stores them, in [0, 1]; for two classes columns
            1 - p and p.
    """
    values = np.asarray(probability, np.float64)
    smallest = np.full(values.shape[1], 2.0**-149)
    if values.shape[1] == 2:
        smallest[0] = 2.0**-25  # half a step of float32 below 1
    return np.log(np.where(values > 0, values, smallest))


def _root(function: Callable[[float], float]) -> float:
    """Find T where a non-decreasing function of log(1 / T) is zero, or the bound it runs to."""
    low, high = -np.log(HIGHEST), -np.log(LOWEST)
    if function(low) >= 0:
        return HIGHEST
    if function(high) <= 0:
        return LOWEST
    return float(np.exp(-optimize.brentq(function, low, high, xtol=1e-12, rtol=1e-12)))


def _note(value: float, num_images: int, *, all_right: bool) -> str:
    if all_right:
        return (
            f"all {num_images} validation images are classified correctly, so no temperature has"
            f" the highest likelihood: at {value:.3g} the network is as confident as {num_images}"
            " correct predictions allow"
        )
    if value == HIGHEST:
        return (
            f"the temperature reached its bound of {HIGHEST:g}: the logits contain almost no"
            f" information about the classes of the {num_images} validation images"
        )
    if value == LOWEST:
        return f"the temperature reached its bound of {LOWEST:g}: the logits are almost equal"
    if num_images < FEW_IMAGES:
        return f"the temperature was fitted on only {counted(num_images, 'validation image')}"
    return ""


def _check(scores: Floats, labels: NDArray[np.generic]) -> None:
    if scores.ndim != 2 or scores.shape[:1] != labels.shape or scores.shape[1] < 2:
        raise ValueError(
            f"expected logits (N, K) and targets (N,), got {scores.shape} and {labels.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("expected finite logits, got NaN or infinity")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected integer targets, got {labels.dtype}")
    if labels.size and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise ValueError(
            f"expected targets in [0, {scores.shape[1]}), got {labels.min()} to {labels.max()}"
        )
