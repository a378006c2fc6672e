from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from medvision.metrics import ClassificationScores, classification_scores, probabilities
from medvision.types import IGNORE_INDEX

NAMES = ("glioma", "meningioma", "healthy", "pituitary")


def sample(num_classes: int, size: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(size, 1 if num_classes == 2 else num_classes, generator=generator)
    return logits, torch.randint(0, num_classes, (size,), generator=generator)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_an_epoch_of_batches_scores_as_its_images(num_classes: int) -> None:
    logits, target = sample(num_classes)
    metric = ClassificationScores(class_names=NAMES[:num_classes], threshold=0.4)
    for rows in torch.arange(50).split(7):
        metric.update(logits[rows], target[rows].to(torch.uint8))
    scores = metric.compute()
    expected = classification_scores(
        probabilities(logits).numpy(),
        target.numpy(),
        class_names=NAMES[:num_classes],
        threshold=0.4,
    )
    assert {name: score.item() for name, score in scores.items()} == pytest.approx(
        expected, abs=1e-6
    )
    for score in scores.values():
        assert (score.dtype, score.shape, score.device.type) == (torch.float32, (), "cpu")


def test_ignored_rows_change_nothing() -> None:
    logits, target = sample(4)
    metric, padded = (ClassificationScores(class_names=NAMES) for _ in range(2))
    metric.update(logits, target)
    padded.update(logits, target)
    padded.update(torch.full((3, 4), torch.nan), torch.full((3,), IGNORE_INDEX))
    assert padded.compute() == metric.compute()


def test_an_epoch_of_ignored_images_has_no_scores() -> None:
    metric = ClassificationScores(class_names=NAMES[:2])
    metric.update(torch.zeros(3, 1), torch.full((3,), IGNORE_INDEX))
    assert torch.stack(list(metric.compute().values())).isnan().all()


def test_an_epoch_without_a_batch_has_no_scores() -> None:
    metric = ClassificationScores(class_names=NAMES)
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        scores = metric.compute()
    assert torch.stack(list(scores.values())).isnan().all()


def test_a_nan_output_has_undefined_scores_under_the_same_names() -> None:
    logits, target = sample(2)
    metric = ClassificationScores(class_names=NAMES[:2])
    metric.update(logits, target)
    names = list(metric.compute())
    metric.update(torch.tensor([[torch.nan]]), torch.tensor([0]))
    scores = metric.compute()
    assert list(scores) == names
    assert torch.stack(list(scores.values())).isnan().all()


def test_reset_clears_the_state() -> None:
    logits, target = sample(2)
    metric = ClassificationScores(class_names=NAMES[:2])
    metric.update(logits, 1 - target)
    metric.reset()
    metric.update(logits, target)
    fresh = ClassificationScores(class_names=NAMES[:2])
    fresh.update(logits, target)
    torch.testing.assert_close(metric.compute(), fresh.compute(), equal_nan=True)


def test_no_gradient_is_kept_and_copies_are_independent() -> None:
    logits, target = sample(4)
    metric = ClassificationScores(class_names=NAMES)
    metric.update(logits.requires_grad_(), target)
    assert not metric.rows[0].requires_grad
    copy = pickle.loads(pickle.dumps(metric))
    metric.reset()
    assert copy.compute()["confusion/glioma/glioma"] >= 0
    assert metric.clone().rows == []


def test_probabilities_are_float64_and_sum_to_one() -> None:
    binary = probabilities(torch.tensor([[0.0], [100.0]], dtype=torch.bfloat16))
    expected = torch.tensor([[0.5, 0.5], [np.exp(-100), 1.0]], dtype=torch.float64)
    torch.testing.assert_close(binary, expected, rtol=1e-12, atol=0)
    many = probabilities(torch.tensor([[0.0, 0.0, np.log(2)]], dtype=torch.float64))
    torch.testing.assert_close(many, torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_confident_images_are_ranked_by_their_logits(num_classes: int) -> None:
    """Logits from 17 on have the probability 1 in float32, and from 37 on in float64."""
    logits = torch.tensor([[18.0], [25.0], [40.0], [50.0], [60.0]])
    target = torch.tensor([0, 1, 0, 1, 1])
    if num_classes == 3:
        logits, target = torch.cat([torch.zeros(5, 2), logits], dim=1), 2 * target
    metric = ClassificationScores(class_names=NAMES[:num_classes])
    metric.update(logits, target)
    scores = metric.compute()
    name = NAMES[num_classes - 1]
    assert scores[f"auroc/{name}"] == pytest.approx(5 / 6)  # one of six pairs is in the wrong order
    assert scores[f"auroc/{NAMES[0]}"] == pytest.approx(5 / 6)
    assert scores[f"average_precision/{name}"] == pytest.approx((1 + 1 + 3 / 4) / 3)


@pytest.mark.parametrize("shape", [(3, 2), (3, 0), (3,), (3, 1, 4, 4)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected logits of shape"):
        probabilities(torch.zeros(shape))


def test_mismatch_names_both_shapes() -> None:
    metric = ClassificationScores(class_names=NAMES)
    with pytest.raises(ValueError, match=r"of 4 classes .*got \(3, 1\) and \(3,\)"):
        metric.update(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(2,\)"):
        metric.update(torch.zeros(3, 4), torch.zeros(2, dtype=torch.long))


def test_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="distinct class names"):
        ClassificationScores(class_names=("a", "a"))
    with pytest.raises(ValueError, match="threshold"):
        ClassificationScores(class_names=NAMES, threshold=2)
