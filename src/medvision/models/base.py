"""Parts shared by all networks: number of logits, padding to a multiple, parameter counts."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medvision.errors import MedvisionError


def count_parameters(model: nn.Module) -> int:
    """Count the parameters, including frozen ones; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_logits(num_classes: int) -> int:
    """Number of logit channels: one (that of class 1) for two classes, K for more."""
    if num_classes < 2:
        raise MedvisionError(
            f"expected at least 2 classes, got {num_classes}",
            where="model.num_classes",
            hint="the background of a mask and the healthy class count too",
        )
    return 1 if num_classes == 2 else num_classes


def pad_to_multiple(image: Tensor, multiple: int, *, at_least: int = 1) -> Tensor:
    """Extend (N, C, H, W) to the right and below until ``multiple`` divides H and W.

    The border is replicated, not mirrored, because a reflection cannot be wider than its image. The
    amounts are Python integers, so that each image size has one static shape.

    Args:
        image: (N, C, H, W).
        multiple: Multiple in pixels.
        at_least: Smallest height and width to return, in pixels.
    """
    height, width = image.shape[-2:]
    bottom = -max(height, at_least) % multiple + max(at_least - height, 0)
    right = -max(width, at_least) % multiple + max(at_least - width, 0)
    if bottom == 0 and right == 0:
        return image
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def check_dropout(dropout: float, *, where: str = "model.dropout") -> None:
    """Raise ``MedvisionError`` if the dropout rate is outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise MedvisionError(
            f"expected a share in [0, 1), got {dropout}",
            where=where,
            hint="use 0 for no dropout; 0.2 is common",
        )


def pool_before_relu(layers: Iterable[nn.Module]) -> nn.Sequential:
    """Join layers, with max-pooling moved in front of a ReLU that precedes it, but for the last.

    The maximum of a window is the same before and after ReLU, and so is the position to which its
    gradient goes. ReLU then has a quarter of the values: a training step of AlexNet on a CPU takes
    0.81 of the time. No layer with parameters moves, so their names stay. The maps in front of the
    last pooling remain those after ReLU.

    Args:
        layers: Layers in order.
    """
    *ordered, last = layers
    for index, (layer, following) in enumerate(list(pairwise(ordered))):
        if isinstance(layer, nn.ReLU) and isinstance(following, nn.MaxPool2d):
            ordered[index : index + 2] = [following, layer]
    return nn.Sequential(*ordered, last)


def first_stages(network: nn.Module, count: int) -> list[nn.Module]:
    """Return the layers of a timm network up to the features of its first stages.

    A stage ends where timm takes features of one stride: 2, 4, 8, 16 and 32 for most convolutional
    networks. Layers are taken in the order of their definition.

    Args:
        network: A network of timm, also one that returns features.
        count: Number of stages.

    Returns:
        Modules without children or with parameters of their own, as timm's batch norms have both.

    Raises:
        MedvisionError: If the network does not name its stages, or has fewer.
    """
    where = "callbacks.finetuning.frozen_stages"
    info: Any = getattr(network, "feature_info", None)
    if info is None:
        raise MedvisionError(
            f"{type(network).__name__} does not name its stages",
            where=where,
            hint="use 0, or a network of timm (for segmentation an encoder tu-NAME)",
        )
    names = [stage["module"] for stage in info] if isinstance(info, list) else info.module_name()
    if not 0 <= count <= len(names):
        raise MedvisionError(
            f"expected at most {len(names)} stages, got {count}",
            where=where,
            hint="the last ones should learn: 2 leaves out the layers of highest resolution",
        )
    if count == 0:
        return []
    modules = dict(network.named_modules())
    last = names[count - 1]
    end = modules[last if last in modules else last.replace(".", "_")]  # timm flattens names
    layers = _layers(network)
    return layers[: layers.index(_layers(end)[-1]) + 1]


def _layers(network: nn.Module) -> list[nn.Module]:
    modules = network.modules()
    return [m for m in modules if not list(m.children()) or list(m.parameters(recurse=False))]
