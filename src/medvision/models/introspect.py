"""Questions other rooms ask of a network."""

from __future__ import annotations

from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Number of learned values, frozen ones included; buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def is_depthwise(model: nn.Module) -> bool:
    """Whether any convolution filters each channel alone, as in EfficientNet.

    Such convolutions are bound by memory and gain little from bfloat16 in training.
    """
    return any(
        module.groups == module.in_channels > 1
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    )
