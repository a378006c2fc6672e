import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from medvision.hardware.cpu import DepthwiseConvolution, SpatialMean, double_size


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double).requires_grad_()


@pytest.mark.parametrize("taps", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(9, 9), (10, 13)])
def test_depthwise_gradients_are_those_of_pytorch(
    taps: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    if padding >= taps:
        pytest.skip("padded beyond the kernel")
    torch.manual_seed(0)
    x, weight = leaf(2, 3, *size), leaf(3, 1, taps, taps)
    theirs = F.conv2d(x, weight, None, stride, padding, 1, 3)
    ours = DepthwiseConvolution.apply(x, weight, stride, padding)
    assert torch.equal(ours, theirs)
    grad = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, (x, weight), grad)
    found = torch.autograd.grad(ours, (x, weight), grad)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_only_requested_gradients_are_computed() -> None:
    x, weight = leaf(1, 2, 6, 6), leaf(2, 1, 5, 5)
    DepthwiseConvolution.apply(x.detach(), weight, 2, 2).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


@pytest.mark.parametrize("with_bias", [True, False])
def test_doubling_equals_the_transposed_convolution(with_bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(6, 4, 2, stride=2, bias=with_bias).double()
    x = leaf(2, 6, 3, 5)
    theirs, ours = layer(x), double_size(x, layer.weight, layer.bias)
    torch.testing.assert_close(ours, theirs)
    leaves = (x, *layer.parameters())
    grad = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, leaves, grad)
    for mine, other in zip(torch.autograd.grad(ours, leaves, grad), expected, strict=True):
        torch.testing.assert_close(mine, other)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_the_gradient_of_the_mean_has_the_memory_format_of_its_input() -> None:
    x = leaf(2, 3, 4, 5)
    assert gradcheck(SpatialMean.apply, (x,))
    wide = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    seen: list[Tensor] = []
    wide.register_hook(seen.append)
    SpatialMean.apply(wide).sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
