"""Where a CPU computes otherwise than PyTorch would by itself: slow gradients, coarse first layers.

Slow in training: batch 16, 224 px, training images per second on one core with AVX512-BF16, torch
2.9.1, the ways in turn and other programs on the other core:

                                                   EfficientNet-Lite0       EfficientNet-B0
    float32                                                8.8                    7.0
    bfloat16, channels-last                                6.1                    4.6
    the same with the gradients of ``cpu_kernels``        12.9                   10.8
"""

# Coarse in measuring, share of the mask pixels of 40 Kvasir images that differ from float32:
#                                              bfloat16   first layers float32   images/s
#   U-Net, base 16: the first convolution       0.117 %          0.061 %         22 -> 26
#   U-Net on EfficientNet-Lite0: stem, stage 1  0.130 %          0.050 %         20 -> 22

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medvision.hardware.cpu_kernels import DepthwiseConvolution, SpatialMean, double_size


def train_with_quick_gradients(model: nn.Module) -> int:
    """Let the layers whose gradients are slow in bfloat16 compute them as ``cpu_kernels`` does.

    These are depthwise convolutions with a stride or a kernel above 3x3, transposed convolutions
    that double height and width, and the squeeze of squeeze-and-excitation. Modules that join two
    feature maps and know how to work ``in_parts`` do so: 1.05 times as many images per second of a
    U-Net. Without autocast or without gradients nothing changes.

    Args:
        model: Changed in place; its tensors and their names stay.

    Returns:
        How many layers were changed.
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
    """Let a segmentation network compute its first layers in float32 where nothing is learnt.

    What bfloat16 rounds off there moves the outlines of masks more than all later layers do
    together, and few input channels are no faster in it. Training steps stay as they are.

    Args:
        model: Changed in place, if it names its ``first_layers``; its tensors and names stay.

    Returns:
        How many modules were changed.
    """
    layers = _first_layers(model)
    for module in layers:
        module.forward = functools.partial(_measured_in_float32, module.forward)
    return len(layers)


def round_weights_once(model: nn.Module) -> int:
    """Keep the weights that autocast rounds to bfloat16 in every forward pass rounded.

    Outputs stay the same, bit for bit; weights take half the memory, and an AlexNet on 2 cores
    predicts 1.22 times as many images per second. For networks that only predict, under autocast.

    Args:
        model: Changed in place, after `measure_first_layers_in_float32`, whose layers stay.

    Returns:
        How many modules were changed.
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
        return type(module).__name__ == "SqueezeExcite"  # timm's
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
    """Compute what a layer asks PyTorch for in another way."""

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
    """Whether padding is the same all round, and less than the kernel."""
    return isinstance(padding, tuple) and padding[0] == padding[1] < taps


def _cast(*tensors: Tensor | None) -> Iterator[Any]:
    kind = torch.get_autocast_dtype("cpu")
    return (None if tensor is None else tensor.to(kind) for tensor in tensors)
