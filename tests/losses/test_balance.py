from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy, balanced_weights


def test_values_by_hand() -> None:
    assert balanced_weights([30, 10]) == pytest.approx([2 / 3, 2])
    assert balanced_weights([7, 7, 7]) == [1, 1, 1]


def test_scikit_learn_agrees() -> None:
    target = [0] * 5 + [1] * 3 + [2] * 9
    expected = compute_class_weight("balanced", classes=np.arange(3), y=target)
    assert balanced_weights([5, 3, 9]) == pytest.approx(expected)


def test_balanced_classes_have_equal_weight_in_the_loss() -> None:
    target = torch.tensor([0, 0, 0, 1])
    logits = torch.tensor([[1.0], [1.0], [1.0], [2.0]])
    loss = CrossEntropy(class_weights=balanced_weights([3, 1]))(logits, target)
    each = CrossEntropy()(logits[:1], target[:1]) + CrossEntropy()(logits[3:], target[3:])
    torch.testing.assert_close(loss, each / 2)


@pytest.mark.parametrize("counts", [[3, 0], []])
def test_a_class_without_images_cannot_be_balanced(counts: list[int]) -> None:
    with pytest.raises(MedvisionError, match=r"cannot be balanced.*\(loss.class_weights\)"):
        balanced_weights(counts)
