from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy
from medvision.types import IGNORE_INDEX


def test_binary_value_by_hand() -> None:
    logits = torch.tensor([0.0, 0.0, 2.0, -1.0]).view(1, 1, 1, 4)
    target = torch.tensor([0, 1, 1, IGNORE_INDEX], dtype=torch.uint8).view(1, 1, 4)
    expected = (2 * math.log(2) + math.log(1 + math.exp(-2))) / 3
    assert CrossEntropy()(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_multiclass_value_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(2)], [0.0, 0.0]]).view(1, 3, 1, 2)
    target = torch.tensor([[[2, 1]]], dtype=torch.uint8)
    expected = (math.log(3) + math.log(2)) / 2  # probabilities 1/3 and 2/4
    loss = CrossEntropy(num_classes=3)(logits, target)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_two_classes_equal_a_softmax_over_zero_and_the_logit() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 4, 5), torch.randint(0, 2, (2, 4, 5))
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(
        CrossEntropy(label_smoothing=0.1)(logits, target),
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
    loss = CrossEntropy(num_classes=num_classes, class_weights=weights)(ours, target)
    torch.testing.assert_close(loss, expected)


def test_a_weight_of_zero_excludes_a_class() -> None:
    logits = torch.tensor([5.0, 1.0]).view(1, 1, 1, 2)
    target = torch.tensor([[[0, 1]]])
    loss = CrossEntropy(class_weights=[0.0, 1.0])(logits, target)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_cost_as_much_as_class_indices(num_classes: int, smoothing: float) -> None:
    torch.manual_seed(0)
    weights = [1.0, 3.0, 0.5][:num_classes]
    logits = torch.randn(7, 1 if num_classes == 2 else num_classes)
    target = torch.arange(7) % num_classes
    loss = CrossEntropy(num_classes=num_classes, class_weights=weights, label_smoothing=smoothing)
    shares = F.one_hot(target, num_classes).float()
    torch.testing.assert_close(loss(logits, shares), loss(logits, target))
    shares[2:4] = 0  # ignored
    target[2:4] = IGNORE_INDEX
    torch.testing.assert_close(loss(logits, shares), loss(logits, target))


def test_mixed_labels_by_hand() -> None:
    logits = torch.tensor([[math.log(3)], [0.0]])  # p = 3/4 and 1/2
    mixed = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    first = -0.25 * math.log(1 / 4) - 0.75 * math.log(3 / 4)
    assert CrossEntropy()(logits, mixed).item() == pytest.approx((first + math.log(2)) / 2)
    weighted = CrossEntropy(class_weights=[1.0, 5.0])  # samples weigh 0.25 + 0.75 * 5 = 4, and 1
    assert weighted(logits, mixed).item() == pytest.approx((4 * first + math.log(2)) / 5)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_mixed_labels_cost_as_in_torch(num_classes: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, num_classes)
    mixed = torch.rand(5, num_classes).softmax(dim=1)
    ours = logits if num_classes > 2 else logits[:, 1:] - logits[:, :1]
    loss = CrossEntropy(num_classes=num_classes, label_smoothing=0.2)
    expected = F.cross_entropy(logits, mixed, label_smoothing=0.2)
    torch.testing.assert_close(loss(ours, mixed), expected)
    torch.testing.assert_close(loss(ours, mixed.bfloat16()), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        pytest.param((3, 1), (3, 3), id="shares-of-other-classes"),
        pytest.param((3, 1, 4, 4), (3, 4, 4), id="a-mask-of-floats"),
        pytest.param((2, 1), (3, 2), id="other-number-of-images"),
    ],
)
def test_floats_that_are_not_shares_are_refused(
    logits: tuple[int, ...], target: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"of torch.float32"):
        CrossEntropy()(torch.zeros(logits), torch.zeros(target))


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, math.nan], [1.0, math.inf], "balanced", 2.0]
)
def test_invalid_weights_are_refused(weights: object) -> None:
    with pytest.raises(MedvisionError, match=r"\(loss.class_weights\)"):
        CrossEntropy(class_weights=weights)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_invalid_smoothing_is_refused(smoothing: float) -> None:
    with pytest.raises(MedvisionError, match=r"\(loss.label_smoothing\)"):
        CrossEntropy(label_smoothing=smoothing)


def test_weights_stay_out_of_the_checkpoint() -> None:
    assert not CrossEntropy(class_weights=[1.0, 2.0]).state_dict()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_class_weights_with_smoothing_are_those_of_torch(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(6, num_classes, 3, 4, generator=generator)
    target = torch.randint(num_classes, (6, 3, 4), generator=generator)
    target[0, :2] = IGNORE_INDEX
    weights = [0.5, 3.0, 1.5, 2.0][:num_classes]
    loss = CrossEntropy(num_classes=num_classes, class_weights=weights, label_smoothing=0.2)
    expected = F.cross_entropy(
        logits,
        target,
        weight=torch.tensor(weights),
        label_smoothing=0.2,
        ignore_index=IGNORE_INDEX,
    )
    torch.testing.assert_close(loss(logits, target), expected)
    own = logits[:, 1:] - logits[:, :1] if num_classes == 2 else logits
    torch.testing.assert_close(loss(own, target.to(torch.uint8)), expected)
