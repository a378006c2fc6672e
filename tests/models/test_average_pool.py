import pytest
import torch
from torch import nn

from medvision.models.alexnet import AveragePool


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 9), (6, 6), (7, 13), (12, 18)])
def test_pooling_equals_that_of_torch(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    pooled, expected = AveragePool(6)(maps), nn.AdaptiveAvgPool2d(6)(maps)
    torch.testing.assert_close(pooled, expected)
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((pooled * weight).sum(), maps)
    (same,) = torch.autograd.grad((expected * weight).sum(), maps)
    torch.testing.assert_close(gradient, same)


def test_pooling_keeps_the_dtype() -> None:
    assert AveragePool(6)(torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
