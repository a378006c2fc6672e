"""CPU settings and kernels: allocator, fast convolution gradients, float32 first layers."""

import ctypes
import functools
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_LARGEST_INT = 2**31 - 1
_TOP_PAD_BYTES = 2**27


def keep_freed_memory() -> None:
    """Let the allocator keep the freed memory of a step for the next one.

    glibc returns blocks of megabytes to the system at once, and every page is cleared again when
    the next step allocates it. Has no effect without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
    mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Replace denormal numbers (in float32 those below 1.2e-38) by zero, in this thread.

    Adam's moving average of a gradient that has become zero shrinks to such a number within about
    800 steps and stays there, because 0.9 times the smallest one is rounded to itself. Processors
    take about ten times as long for them, so the epochs of a network with many dead units slow
    down. The trained weights are the same: these numbers are far below their resolution.

    Threads started within do the same and keep doing so: enter before the first parallel
    operation. Has no effect on processors that do not support it.
    """
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # below version 2.4, NumPy warns if this is computed later
    smallest = torch.finfo(torch.float32).tiny
    before = bool(torch.full((), smallest) / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


_TAPS, _PADDING = 3, 1  # kernels for which oneDNN is fast


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
    """Mean over height and width, whose gradient has the memory layout of its input.

    PyTorch's gradient is channels-first, and adding it to a channels-last gradient accesses memory
    with large strides.

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
    """Gradient of the input: stride-1 convolution of the dilated gradient, flipped kernel."""
    taps, channels = weight.shape[-1], x.shape[1]
    around = taps - 1 - padding
    border = max(0, around - taps // 2)  # zeros beyond the padding of oneDNN's fast kernel
    if stride > 1 or border > 0:
        dense = [pixels + 2 * (padding + border) - taps + 1 for pixels in x.shape[2:]]
        spaced = grad.new_zeros(len(x), *dense, channels).permute(0, 3, 1, 2)
        rows, columns = (border + stride * out for out in grad.shape[2:])
        spaced[:, :, border:rows:stride, border:columns:stride] = grad
        grad = spaced
    return F.conv2d(grad, weight.flip(2, 3), None, 1, around - border, 1, channels)


def _grad_of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Gradient of the kernel, from its 3x3 parts; neighbouring parts share a row or column."""
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
    """Gradient of the 3x3 part of a kernel that starts at a row and a column.

    Each part is a 3x3 kernel of its own with the same output, shifted by a few pixels.
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
        pixels: Size of the input along an axis.
        out: Size of the output along it.
        offset: Offset of the first tap from the pixel at a stride position.
        stride: In pixels.
    """
    moved = 0
    while True:
        padding = moved * stride - offset
        room = (pixels + 2 * padding - _TAPS) // stride + 1 - out - moved
        if padding >= 0 and room >= 0:
            return padding, moved, room
        moved += 1


def train_with_quick_gradients(model: nn.Module) -> int:
    """Use faster bfloat16 gradients for layers in which PyTorch's are slow.

    These are depthwise convolutions with a stride or a kernel above 3x3, transposed convolutions
    that double height and width, and the squeeze of squeeze-and-excitation. Modules that join two
    feature maps use their method ``in_parts``, if any: 1.05 times as many images per second for a
    U-Net. Has no effect without autocast or without gradients.

    Args:
        model: Changed in place; its tensors and their names stay.

    Returns:
        Number of changed layers.
    """
    changed = 0
    for module in model.modules():
        in_parts: Any = getattr(module, "in_parts", None)
        if in_parts is not None:
            module.forward = functools.partial(_trained_in_parts, module.forward, in_parts)
        elif _is_slow(module):
            module.forward = functools.partial(_trained_quickly, module.forward)
        else:
            continue
        changed += 1
    return changed


def measure_first_layers_in_float32(model: nn.Module) -> int:
    """Compute the first layers of a segmentation network in float32 outside of training.

    The rounding of bfloat16 there moves mask outlines more than that of all later layers together,
    and with few input channels it is not faster. Training steps are unchanged.

    Args:
        model: Changed in place, if it has ``first_layers``; its tensors and their names stay.

    Returns:
        Number of changed modules.
    """
    layers = _first_layers(model)
    for module in layers:
        module.forward = functools.partial(_measured_in_float32, module.forward)
    return len(layers)


def round_weights_once(model: nn.Module) -> int:
    """Store weights in bfloat16 that autocast would round in every forward pass.

    Outputs stay identical; weights take half the memory, and an AlexNet on 2 cores predicts 1.22
    times as many images per second. For networks that only predict, under autocast.

    Args:
        model: Changed in place, after `measure_first_layers_in_float32`, whose layers stay.

    Returns:
        Number of changed modules.
    """
    exact = {id(part) for layer in _first_layers(model) for part in layer.modules()}
    rounded = [
        module
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
        and id(module) not in exact
    ]
    for module in rounded:
        module.to(torch.bfloat16)
    return len(rounded)


def _first_layers(model: nn.Module) -> list[nn.Module]:
    return getattr(model, "first_layers", list)()


def _measured_in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())


def _is_slow(module: nn.Module) -> bool:
    if isinstance(module, nn.ConvTranspose2d):
        pads = (*module.padding, *module.output_padding)
        shape = (module.kernel_size, module.stride, module.groups, max(pads))
        return shape == ((2, 2), (2, 2), 1, 0) and module.dilation == (1, 1)
    if not isinstance(module, nn.Conv2d):
        return type(module).__name__ == "SqueezeExcite"  # class of timm
    (taps, width), (stride, across) = module.kernel_size, module.stride
    depthwise = module.groups == module.in_channels == module.out_channels > 1
    square = taps == width and taps % 2 == 1 and stride == across and module.dilation == (1, 1)
    plain = depthwise and square and module.bias is None and module.padding_mode == "zeros"
    return plain and (stride > 1 or taps > 3) and taps > 1


def _trained_quickly(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not _trains():
        return forward(x)
    with _QuickGradients():
        return forward(x)


def _trained_in_parts(
    forward: Callable[..., Tensor], in_parts: Callable[..., Tensor], *inputs: Tensor
) -> Tensor:
    return in_parts(*inputs) if _trains() else forward(*inputs)


def _trains() -> bool:
    return torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


_depthwise: Callable[..., Tensor] = DepthwiseConvolution.apply
_spatial_mean: Callable[..., Tensor] = SpatialMean.apply


class _QuickGradients(TorchFunctionMode):
    """Replace PyTorch functions called in a layer by faster ones."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and len(args) == 7:
            x, weight, bias, stride, padding, _, groups = args
            taps = weight.shape[-1]
            if groups > 1 and bias is None and (stride[0] > 1 or taps > 3) and _fits(padding, taps):
                return _depthwise(*_cast(x, weight), stride[0], padding[0])
        elif func is torch.conv_transpose2d:
            return double_size(*_cast(*args[:3]))
        elif func is Tensor.mean and args[1:] == ((2, 3),) and kwargs == {"keepdim": True}:
            return _spatial_mean(args[0])
        return func(*args, **(kwargs or {}))


def _fits(padding: Any, taps: int) -> bool:
    """Return True if the padding is equal on all sides and less than the kernel."""
    return isinstance(padding, tuple) and padding[0] == padding[1] < taps


def _cast(*tensors: Tensor | None) -> Iterator[Any]:
    kind = torch.get_autocast_dtype("cpu")
    return (None if tensor is None else tensor.to(kind) for tensor in tensors)
