"""Whether a probability of 0.8 is right in 8 of 10 cases: expected calibration error.

The confidence of an image is the probability of its most probable class, and it is right if that
is the true class: for two classes class 1 where p >= 0.5, whatever threshold the predictions use;
for more the largest, the first of equal ones. Confidences fall into 15 bins ((b-1)/15, b/15] of
equal width.
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


def calibration_gaps(probability: Floats, target: Ints) -> Floats:
    r"""What every image adds to the expected calibration error, (N, 15).

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|
              = \frac{1}{n} \sum_b \Big| \sum_{i \in b} (\mathrm{right}_i - \mathrm{conf}_i) \Big|

    Row i holds the inner term of image i in the column of its bin, so that the error of a
    resample is one product with its weights.

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
        https://arxiv.org/abs/1706.04599
    """
    confidence, right, place = _confidence(probability, target)
    gaps = np.zeros((len(target), NUM_BINS))
    gaps[np.arange(len(target)), place] = right - confidence
    return gaps


def _confidence(probability: Floats, target: Ints) -> tuple[Floats, NDArray[np.bool_], Ints]:
    """Confidence, whether it is right, and bin of every image, (N,) each."""
    if probability.shape[1] == 2:
        most_probable = (probability[:, 1] >= 0.5).astype(np.int64)
    else:
        most_probable = probability.argmax(axis=1)
    confidence = probability[np.arange(len(target)), most_probable]
    inner_edges = np.arange(1, NUM_BINS) / NUM_BINS
    return confidence, most_probable == target, np.digitize(confidence, inner_edges, right=True)
