"""A habit of CPUs that costs training half its speed, and what is done about it.

EfficientNet-Lite0, 160 px, batch 32, bf16 autocast, channels-last, training images per second on
2 cores with AVX512-BF16, torch 2.9.1
(memory kept: ``keep_freed_memory``):

                                                       as it is    memory kept
    every convolution in bfloat16                         29            33
    slow depthwise convolutions in float32                43            58
"""

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


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels > 1
    return depthwise and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)


def _in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        out = forward(x.float())
    return out.to(torch.get_autocast_dtype("cpu"))
