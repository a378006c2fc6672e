from __future__ import annotations

import pytest
import torch
from torch import nn

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy, WeightedSum


class Constant(nn.Module):
    """Constant loss."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.value)


def test_sum_is_weighted_and_weights_default_to_one() -> None:
    loss = WeightedSum(terms={"a": Constant(2.0), "b": Constant(3.0)}, weights={"b": 0.5})
    assert loss(torch.zeros(1), torch.zeros(1)).item() == 3.5


def test_one_term_is_itself() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 1, 3, 3), torch.randint(0, 2, (1, 3, 3))
    alone = CrossEntropy()
    assert torch.equal(WeightedSum(terms={"bce": alone})(logits, target), alone(logits, target))


def test_terms_move_to_the_device_of_the_sum() -> None:
    loss = WeightedSum(terms={"bce": CrossEntropy(class_weights=[1.0, 2.0])})
    assert loss.to("meta").terms[0].weights.device.type == "meta"


def test_a_weight_without_a_term_is_refused() -> None:
    with pytest.raises(MedvisionError, match=r"unknown loss dise .*the terms are dice"):
        WeightedSum(terms={"dice": Constant(1.0)}, weights={"dise": 1.0})


def test_an_empty_sum_is_refused() -> None:
    with pytest.raises(MedvisionError, match="at least one loss"):
        WeightedSum(terms={})
