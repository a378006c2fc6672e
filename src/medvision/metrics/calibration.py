"""Whether a probability of 0.8 is right in 8 of 10 cases: calibration error and Brier score.

The confidence of an image is the probability of its most probable class, and it is right if that
is the true class: for two classes class 1 where p >= 0.5, whatever threshold the predictions use;
for more the largest, the first of equal ones. Confidences fall into 15 bins ((b-1)/15, b/15] of
equal width.

The Brier score needs no bins: it is the mean squared distance of the probabilities from the truth,
and falls with calibration and with discrimination alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""As Guo et al. and most who compare with them."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def calibration_bins(probability: Floats, target: Ints) -> tuple[Floats, Floats, Ints]:
    """Compare confidence and accuracy of the images of every bin, for a plot.

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
    r"""Images with their probabilities, prepared once to be scored under many weightings.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|
              = \frac{1}{n} \sum_b \Big| \sum_{i \in b} (\mathrm{right}_i - \mathrm{conf}_i) \Big|

    A row of ``gaps`` holds the inner term of its image in the column of its bin, so that the error
    of a resample is one product with its weights.

    The Brier score is, for two classes, the mean of :math:`(p_i - y_i)^2` for the probability of
    class 1, in [0, 1], as in most medical papers; for K >= 3 the mean of
    :math:`\sum_k (p_{ik} - y_{ik})^2` as Brier defined it, in [0, 2].

    Args:
        probability: Probabilities (N, K), rows summing to 1.
        target: Class indices (N,).

    Attributes:
        gaps: (N, 15).
        squared_errors: What each image adds to the Brier score, (N,).

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
        https://arxiv.org/abs/1706.04599; Brier, Verification of Forecasts Expressed in Terms of
        Probability, Monthly Weather Review 1950
    """

    def __init__(self, probability: Floats, target: Ints) -> None:
        confidence, right, place = _confidence(probability, target)
        rows, num_classes = np.arange(len(target)), probability.shape[1]
        self.gaps = np.zeros((len(target), NUM_BINS))
        self.gaps[rows, place] = right - confidence
        if num_classes == 2:
            self.squared_errors: Floats = (probability[:, 1] - target) ** 2
        else:
            self.squared_errors = ((probability - np.eye(num_classes)[target]) ** 2).sum(axis=1)

    def __len__(self) -> int:
        return len(self.gaps)

    def scores(self, weights: NDArray[np.number] | None = None) -> dict[str, Floats]:
        """``ece`` and ``brier``, float64 (R,) each; NaN without images.

        Args:
            weights: How often each image occurs in each of R resamples, (R, N); each image once
                if not given, R = 1.
        """
        times = np.ones((1, len(self))) if weights is None else np.asarray(weights, np.float64)
        total = times.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return {
                "ece": np.abs(times @ self.gaps).sum(axis=1) / total,
                "brier": times @ self.squared_errors / total,
            }


def _confidence(probability: Floats, target: Ints) -> tuple[Floats, NDArray[np.bool_], Ints]:
    """Confidence, whether it is right, and bin of every image, (N,) each."""
    if probability.shape[1] == 2:
        most_probable = (probability[:, 1] >= 0.5).astype(np.int64)
    else:
        most_probable = probability.argmax(axis=1)
    confidence = probability[np.arange(len(target)), most_probable]
    inner_edges = np.arange(1, NUM_BINS) / NUM_BINS
    return confidence, most_probable == target, np.digitize(confidence, inner_edges, right=True)
