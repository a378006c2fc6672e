"""Where a CPU should not compute in bfloat16: layers that are slow in it, or that it makes coarse.

Slow in training: EfficientNet-Lite0, 160 px, batch 32, bf16 autocast, channels-last, training
images per second on 2 cores with AVX512-BF16, torch 2.9.1 (memory kept: ``keep_freed_memory``):

                                                       as it is    memory kept
    every convolution in bfloat16                         29            33
    slow depthwise convolutions in float32                43            58
"""

# Coarse in measuring, share of the mask pixels of 40 Kvasir images that differ from float32:
#                                              bfloat16   first layers float32   images/s
#   U-Net, base 16: the first convolution       0.117 %          0.061 %         22 -> 26
#   U-Net on EfficientNet-Lite0: stem, stage 1  0.130 %          0.050 %         20 -> 22

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn


def train_slow_depthwise_in_float32(model: nn.Module) -> int:
    """Let the depthwise convolutions that bfloat16 slows down train in float32.

    The CPU's gradient of a depthwise convolution with a stride, or with a kernel above 3x3, is
    two to eight times slower in bfloat16 than in float32. Without gradients, where bfloat16 is
    the faster one, nothing changes.

    Args:
        model: Changed in place; its tensors and their names stay.

    Returns:
        How many convolutions were changed.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_slow(module):
            module.forward = functools.partial(_in_float32, module.forward)  # type: ignore[method-assign]
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
    layers: list[nn.Module] = getattr(model, "first_layers", list)()
    for module in layers:
        module.forward = functools.partial(_measured_in_float32, module.forward)
    return len(layers)


def _measured_in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels > 1
    return depthwise and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)


def _in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        out = forward(x.float())
    return out.to(torch.get_autocast_dtype("cpu"))
