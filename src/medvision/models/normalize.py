"""Input normalisation, the first layer of every network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.types import single_logit

RGB_CHANNELS = 3


class Normalize(nn.Module):
    r"""Scale images to [0, 1], then standardise them: :math:`(x - \mathrm{mean}) / \mathrm{std}`.

    Mean and std are buffers of the checkpoint, so that a model is always used with its own values.

    Args:
        in_channels: Number of image channels.
        mean: Mean of pixels in [0, 1], one number for all channels or one per channel. Three
            numbers (RGB) are averaged for images of one channel.
        std: Standard deviation, in the same form as ``mean``, greater than 0.

    Raises:
        MedvisionError: If there are neither one, C nor (for C = 1) three numbers, or if a std
            is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        in_channels: int = RGB_CHANNELS,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(mean, in_channels, where="model.mean"))
        self.register_buffer("std", _per_channel(std, in_channels, where="model.std"))
        if not bool((self.std > 0).all()):
            raise MedvisionError(
                f"expected a positive std, got {std}", where="model.std", hint="start with 0.5"
            )

    def forward(self, image: Tensor) -> Tensor:
        """Normalise uint8 in [0, 255] or floats in [0, 1], (N, C, H, W), to the dtype of mean."""
        num_channels = self.mean.shape[1]
        if image.ndim != 4 or image.shape[1] != num_channels:
            raise MedvisionError(
                f"expected images (N, {num_channels}, H, W), got {tuple(image.shape)}",
                where="data.in_channels",
                hint="use the same number of channels for data and model",
            )
        if image.dtype == torch.uint8:
            image = image.to(self.mean.dtype) / 255
        elif not image.is_floating_point():
            raise ValueError(f"expected a uint8 or floating-point image, got {image.dtype}")
        return (image.to(self.mean.dtype) - self.mean) / self.std


class Normalized(nn.Module):
    """A custom network behind the normalisation layer that every network of this package has.

    Other attributes, such as ``head_modules``, are looked up on the wrapped network.

    Args:
        network: Maps floats (N, C, H, W), by default in [0, 1], to logits (N, 1 or K) or
            (N, 1 or K, H, W).
        in_channels: C.
        mean: As for ``Normalize``.
        std: As for ``Normalize``.

    Attributes:
        two_become_one: If True, two logits become their difference, the single logit of other
            networks. A loss receives both.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        in_channels: int = RGB_CHANNELS,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.architecture = type(network).__name__
        self.normalize = Normalize(in_channels=in_channels, mean=mean, std=std)
        self.network = network
        self.two_become_one = False

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits."""
        logits = self.network(self.normalize(image))
        return single_logit(logits, 2) if self.two_become_one else logits

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def with_normalization(network: Any, *, in_channels: int) -> nn.Module:
    """Return a network that normalises pixels itself: the given one, or a wrapper around it.

    Args:
        network: Used as it is if its ``normalize`` is a ``Normalize``.
        in_channels: Number of image channels.

    Raises:
        MedvisionError: If ``network`` is not a ``torch.nn.Module``.
    """
    if not isinstance(network, nn.Module):
        raise MedvisionError(
            f"expected a torch.nn.Module, got {type(network).__name__}",
            where="model",
            hint="set model._target_ to a network class",
        )
    if isinstance(getattr(network, "normalize", None), Normalize):
        return network
    return Normalized(network, in_channels=in_channels)


def _per_channel(values: float | Sequence[float], in_channels: int, *, where: str) -> Tensor:
    if in_channels < 1:
        raise MedvisionError(
            f"expected at least 1 channel, got {in_channels}", where="model.in_channels"
        )
    numbers = [float(values)] if isinstance(values, (int, float)) else [float(v) for v in values]
    if len(numbers) == RGB_CHANNELS and in_channels == 1:
        numbers = [sum(numbers) / RGB_CHANNELS]
    if len(numbers) == 1:
        numbers *= in_channels
    if len(numbers) != in_channels:
        raise MedvisionError(
            f"expected 1 or {in_channels} numbers, got {len(numbers)}",
            where=where,
            hint="give one number, or one per channel",
        )
    return torch.tensor(numbers).view(1, in_channels, 1, 1)
