import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from medvision.metrics import auroc, roc_curve

torch.set_num_threads(1)


def binned_scores(
    num_values: int, num_bins: int, seed: int, shift: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64], Tensor]:
    """Labels, scores as bin numbers, and their histogram."""
    rng = np.random.default_rng(seed)
    labels = rng.random(num_values) < 0.3
    values = 1 / (1 + np.exp(-rng.normal(shift * labels, 1)))
    bins = np.minimum(num_bins - 1, np.floor(num_bins * values)).astype(np.int64)
    counts = [np.bincount(bins[labels == label], minlength=num_bins) for label in (False, True)]
    return labels, bins, torch.tensor(np.array(counts))


@pytest.mark.parametrize("num_bins", [4, 256])
@pytest.mark.parametrize(("seed", "shift"), [(0, 0.0), (1, 1.5), (2, -1.0), (3, 6.0)])
def test_areas_agree_with_sklearn_on_binned_scores(num_bins: int, seed: int, shift: float) -> None:
    labels, bins, histogram = binned_scores(3000, num_bins, seed, shift)
    expected = sklearn_metrics.roc_auc_score(labels, bins)
    assert auroc(histogram).item() == pytest.approx(expected, abs=1e-6)


def test_the_curve_agrees_with_sklearn_at_every_common_threshold() -> None:
    labels, bins, histogram = binned_scores(500, 16, 4, 1.0)
    false_rate, true_rate = roc_curve(histogram)
    expected = sklearn_metrics.roc_curve(labels, bins, drop_intermediate=False)
    at = [16 - int(edge) for edge in expected[2][1:]]  # the curve starts at threshold 16 / 16
    np.testing.assert_allclose(false_rate[at], expected[0][1:], atol=1e-6)
    np.testing.assert_allclose(true_rate[at], expected[1][1:], atol=1e-6)


def test_the_curve_by_hand() -> None:
    histogram = torch.tensor([[3, 1, 0, 0], [0, 2, 0, 2]])
    false_rate, true_rate = roc_curve(histogram)
    assert false_rate.tolist() == [0, 0, 0, 0.25, 1]
    assert true_rate.tolist() == [0, 0.5, 0.5, 1, 1]
    # pairs of (negative, positive): 14 of 16 in order, 2 tied
    assert auroc(histogram).item() == pytest.approx((14 + 2 / 2) / 16)


def test_perfect_reversed_and_tied_scores() -> None:
    perfect = torch.tensor([[7, 0], [0, 3]])
    assert auroc(perfect).item() == 1
    assert auroc(perfect.flip(1)).item() == 0
    assert auroc(torch.tensor([[0, 7], [0, 3]])).item() == 0.5


def test_an_absent_class_leaves_its_rate_undefined() -> None:
    no_positives, no_negatives = torch.tensor([[4, 1], [0, 0]]), torch.tensor([[0, 0], [4, 1]])
    for histogram in (no_positives, no_negatives, torch.zeros(2, 4, dtype=torch.int64)):
        assert auroc(histogram).isnan()
    assert roc_curve(no_negatives)[0].isnan().all()
    assert roc_curve(no_negatives)[1].tolist() == pytest.approx([0, 0.2, 1])


def test_the_area_of_many_pixels_is_the_area_of_few() -> None:
    _, _, histogram = binned_scores(3000, 256, 5, 0.5)
    for many in (histogram * 1_000_003, histogram * 10**12):
        assert auroc(many).item() == pytest.approx(auroc(histogram).item(), abs=1e-6)
    perfect = torch.zeros(2, 256, dtype=torch.int64)
    perfect[0, :128] = torch.arange(128) * 999_983
    perfect[1, 128:] = torch.arange(128) * 777_781
    assert auroc(perfect).item() == pytest.approx(1, abs=1e-6)
    assert auroc(perfect).item() <= 1


def test_a_histogram_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a histogram of shape \(2, B\), got \(3, 4\)"):
        roc_curve(torch.zeros(3, 4, dtype=torch.int64))
