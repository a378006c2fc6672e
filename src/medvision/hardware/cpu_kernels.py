"""Convolutions whose gradients PyTorch 2.9 computes slowly on a CPU, put together from fast ones.

oneDNN has quick bfloat16 kernels for dense convolutions and for 3x3 depthwise ones of stride 1. It
falls back to plain loops for the gradient of a strided depthwise convolution with respect to its
input and for that of depthwise kernels above 3x3 with respect to their weights, and it computes a
2x2 transposed convolution of stride 2, which is a matrix product, as any convolution. Gradients in
bfloat16, channels-last, batch 16, one core with AVX512-BF16, ms:

    depthwise, channels at pixels    as it is    in float32    here
    96 at 112, 3x3, stride 2            255          40          24
    144 at 56, 5x5, stride 2            247          45          29
    240 at 28, 5x5                       79          30          26
    672 at 14, 5x5                       69          22          13
    1152 at 7, 5x5                       90          16           4

All are sums over the same products in another order.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_TAPS, _PADDING = 3, 1  # of the kernels that oneDNN is quick at


class DepthwiseConvolution(Function):
    """Depthwise convolution without bias and dilation, square and with one stride and padding.

    Args (of ``apply``):
        x: (N, C, H, W).
        weight: (C, 1, k, k), of the type of ``x``.
        stride: In pixels.
        padding: Zeros on each side; pixels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x, of_weight = ctx.needs_input_grad[:2]
        return (
            _grad_of_input(grad, x, weight, ctx.stride, ctx.padding) if of_x else None,
            _grad_of_weight(grad, x, weight, ctx.stride, ctx.padding) if of_weight else None,
            None,
            None,
        )


class SpatialMean(Function):
    """Mean over height and width, whose gradient lies in memory as its input did.

    PyTorch's own is spread out as if channels came first, and what adds it to a channels-last
    gradient goes through memory with large steps.

    Args (of ``apply``):
        x: (N, C, H, W); the mean is (N, C, 1, 1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        n, channels, height, width = ctx.shape
        share = (grad / (height * width)).permute(0, 2, 3, 1)
        return share.expand(n, height, width, channels).contiguous().permute(0, 3, 1, 2)


def double_size(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Transposed convolution with kernel 2x2 and stride 2 as one matrix product.

    Args:
        x: (N, C, H, W), channels-last.
        weight: (C, D, 2, 2).
        bias: (D,), or None.

    Returns:
        (N, D, 2 H, 2 W), channels-last.
    """
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    columns = weight.permute(0, 2, 3, 1).reshape(channels, -1)  # by row and column of the kernel
    fields = rows @ columns if bias is None else torch.addmm(bias.repeat(4), rows, columns)
    fields = fields.view(n, height, width, 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
    return fields.reshape(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _grad_of_input(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A convolution of stride 1 with the kernel turned round, over what the stride left out."""
    taps, channels = weight.shape[-1], x.shape[1]
    around = taps - 1 - padding
    border = max(0, around - taps // 2)  # zeros of which oneDNN's quick kernel takes no more
    if stride > 1 or border > 0:
        dense = [pixels + 2 * (padding + border) - taps + 1 for pixels in x.shape[2:]]
        spaced = grad.new_zeros(len(x), *dense, channels).permute(0, 3, 1, 2)
        rows, columns = (border + stride * out for out in grad.shape[2:])
        spaced[:, :, border:rows:stride, border:columns:stride] = grad
        grad = spaced
    return F.conv2d(grad, weight.flip(2, 3), None, 1, around - border, 1, channels)


def _grad_of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Gradient of each 3x3 part of the kernel, of which neighbours share a row or column."""
    taps = weight.shape[-1]
    firsts = range(0, taps - _TAPS + 1, _TAPS - 1)
    beyond = max(0, padding - _PADDING)
    if beyond:
        x = F.pad(x, (beyond, beyond, beyond, beyond))
    found = torch.empty_like(weight)
    for top in firsts:
        for left in firsts:
            part = _grad_of_part(grad, x, (top, left), stride, padding - beyond)
            found[:, :, top : top + _TAPS, left : left + _TAPS] = part
    return found


def _grad_of_part(
    grad: Tensor, x: Tensor, first: tuple[int, int], stride: int, padding: int
) -> Tensor:
    """Gradient of the 3x3 part of a kernel that begins at a row and a column.

    That part is a 3x3 kernel of its own, whose output is the same one, moved by a few pixels.
    """
    channels = x.shape[1]
    sides = [
        _place(pixels, out, begin - padding, stride)
        for pixels, out, begin in zip(x.shape[2:], grad.shape[2:], first, strict=True)
    ]
    (pad_y, above, below), (pad_x, left, right) = sides
    moved = F.pad(grad, (left, right, above, below))
    part = x.new_empty(channels, 1, _TAPS, _TAPS)
    return torch.ops.aten.convolution_backward(
        moved.contiguous(memory_format=torch.channels_last),
        x,
        part,
        None,
        [stride, stride],
        [pad_y, pad_x],
        [1, 1],
        False,
        [0, 0],
        channels,
        [False, True, False],
    )[1]


def _place(pixels: int, out: int, offset: int, stride: int) -> tuple[int, int, int]:
    """Padding of the 3-tap kernel, and zeros before and after the output gradient.

    Args:
        pixels: Of the input along an axis.
        out: Of the output along it.
        offset: Of the first tap from the pixel that a stride leads to.
        stride: In pixels.
    """
    moved = 0
    while True:
        padding = moved * stride - offset
        room = (pixels + 2 * padding - _TAPS) // stride + 1 - out - moved
        if padding >= 0 and room >= 0:
            return padding, moved, room
        moved += 1
