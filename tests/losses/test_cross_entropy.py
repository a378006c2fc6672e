from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from medvision.losses import PixelCrossEntropy
from medvision.types import IGNORE_INDEX, MedvisionError


def test_binary_value_by_hand() -> None:
    logits = torch.tensor([0.0, 0.0, 2.0, -1.0]).view(1, 1, 1, 4)
    target = torch.tensor([0, 1, 1, IGNORE_INDEX], dtype=torch.uint8).view(1, 1, 4)
    expected = (2 * math.log(2) + math.log(1 + math.exp(-2))) / 3
    assert PixelCrossEntropy()(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_multiclass_value_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(2)], [0.0, 0.0]]).view(1, 3, 1, 2)
    target = torch.tensor([[[2, 1]]], dtype=torch.uint8)
    expected = (math.log(3) + math.log(2)) / 2  # probabilities 1/3 and 2/4
    loss = PixelCrossEntropy(num_classes=3)(logits, target)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_two_classes_equal_a_softmax_over_zero_and_the_logit() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 4, 5), torch.randint(0, 2, (2, 4, 5))
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(
        PixelCrossEntropy(label_smoothing=0.1)(logits, target),
        F.cross_entropy(both, target, label_smoothing=0.1),
    )


@pytest.mark.parametrize("num_classes", [2, 3])
def test_class_weights_give_the_weighted_mean_of_torch(num_classes: int) -> None:
    torch.manual_seed(0)
    weights = [1.0, 3.0, 0.5][:num_classes]
    logits = torch.randn(2, num_classes, 4, 5)
    target = torch.randint(0, num_classes, (2, 4, 5))
    target[0, 0] = IGNORE_INDEX
    expected = F.cross_entropy(
        logits, target, weight=torch.tensor(weights), ignore_index=IGNORE_INDEX
    )
    ours = logits if num_classes > 2 else logits[:, 1:] - logits[:, :1]
    loss = PixelCrossEntropy(num_classes=num_classes, class_weights=weights)(ours, target)
    torch.testing.assert_close(loss, expected)


def test_a_weight_of_zero_leaves_a_class_out() -> None:
    logits = torch.tensor([5.0, 1.0]).view(1, 1, 1, 2)
    target = torch.tensor([[[0, 1]]])
    loss = PixelCrossEntropy(class_weights=[0.0, 1.0])(logits, target)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(MedvisionError, match=r"\(loss.class_weights\)"):
        PixelCrossEntropy(class_weights=weights)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_impossible_smoothing_is_refused(smoothing: float) -> None:
    with pytest.raises(MedvisionError, match=r"\(loss.label_smoothing\)"):
        PixelCrossEntropy(label_smoothing=smoothing)


def test_weights_stay_out_of_the_checkpoint() -> None:
    assert not PixelCrossEntropy(class_weights=[1.0, 2.0]).state_dict()
