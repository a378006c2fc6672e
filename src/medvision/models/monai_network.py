"""Networks of MONAI, in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvision.libraries import build_of_monai
from medvision.models.base import num_logits
from medvision.models.normalize import RGB_CHANNELS, Normalized


class MonaiNetwork(Normalized):
    """A network of ``monai.networks.nets`` with the interface of this package.

    Pixels are scaled to [-1, 1] by default. Most segmentation networks of MONAI need images whose
    sides are multiples of 16 or 32. Weights are never downloaded.

    Args:
        name: Name of the class, such as ``BasicUNet`` or ``DenseNet121``.
        in_channels: Number of image channels.
        num_classes: K, including the background.
        image_size: Height and width, for networks such as ``UNETR`` that need them, in pixels.
        mean: As for ``Normalize``.
        std: As for ``Normalize``.
        **options: Further arguments of the class, such as ``features``.

    Raises:
        MedvisionError: If MONAI has no such network, or it does not accept its arguments.
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int = RGB_CHANNELS,
        num_classes: int = 2,
        image_size: int | None = None,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        **options: Any,
    ) -> None:
        outputs = num_logits(num_classes)
        derived = {
            "spatial_dims": 2,
            "in_channels": in_channels,
            "out_channels": outputs,
            "num_classes": outputs,
            "img_size": None if image_size is None else (image_size, image_size),
        }
        network = build_of_monai("networks.nets", name, options, derived=derived, where="model")
        super().__init__(network, in_channels=in_channels, mean=mean, std=std)
        self.architecture = name
