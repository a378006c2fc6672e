"""A plain convolutional classifier, used as a baseline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.models.base import check_dropout, num_logits, pool_before_relu
from medvision.models.normalize import Normalize
from medvision.models.weights import load_weights

NUM_STAGES = 5
HIDDEN_FEATURES = (128, 64)


class SimpleCNN(nn.Module):
    """Five stages of convolution and pooling, then three dense layers.

    Each stage is a padded 3x3 convolution with ReLU and 2x2 max-pooling, and has twice the feature
    maps of the previous one. The last maps are flattened and passed through dense layers of 128 and
    64 features with ReLU to the logits. For grey images of 600x600 pixels, two classes and 32 base
    channels it has 22,810,113 parameters, 21,233,792 of them in the first dense layer.

    The width of that layer depends on the image size, so images of any other size are first resized
    bilinearly to ``image_size``. Weights use He normal initialisation.

    Args:
        in_channels: Number of image channels.
        num_classes: K.
        image_size: Height and width of the input of the convolutions, in pixels; at least 32.
        base_channels: Feature maps of the first stage.
        dropout: Dropout rate before each dense layer but the first.
        weights: ``none``, or a file: a state dict or a checkpoint of a run, with the same
            ``image_size`` and ``base_channels``. The last layer is not loaded if the number of
            classes differs.
        mean: Mean of pixels in [0, 1], see ``Normalize``. Replaced by that of a weights file.
        std: Standard deviation, likewise.

    Attributes:
        architecture: Display name.
        loaded_weights: Source of the weights, and the tensors that were filled.

    Raises:
        MedvisionError: If an argument is out of range or the weights do not fit.
    """

    architecture = "SimpleCNN"

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        image_size: int,
        base_channels: int = 32,
        dropout: float = 0.0,
        weights: str = "none",
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
    ) -> None:
        super().__init__()
        if not isinstance(image_size, int) or image_size < 2**NUM_STAGES:
            raise MedvisionError(
                f"SimpleCNN halves its images {NUM_STAGES} times: expected a whole number of at "
                f"least {2**NUM_STAGES} pixels, got {image_size}",
                where="data.image_size",
                hint="224 is common",
            )
        if not isinstance(base_channels, int) or base_channels < 1:
            raise MedvisionError(
                f"expected a whole number of feature maps, got {base_channels}",
                where="model.base_channels",
                hint="the reference uses 32; 8 is fast",
            )
        check_dropout(dropout)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.image_size = image_size
        network = _build(in_channels, num_logits(num_classes), image_size, base_channels, dropout)

        given = Normalize(in_channels=in_channels, mean=mean, std=std)
        self.loaded_weights = load_weights(
            network,
            weights=weights,
            in_channels=in_channels,
            sources={},
            unstated=lambda: (
                tuple(given.mean.flatten().tolist()),
                tuple(given.std.flatten().tolist()),
            ),
            hint="use the data.image_size and model.base_channels of their run",
            head=("head",),
        )
        loaded = self.loaded_weights
        self.normalize = (
            Normalize(in_channels=in_channels, mean=loaded.mean, std=loaded.std)
            if loaded.taken
            else given
        )
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, 1 or K)."""
        return self.network(self._prepare(image))

    def feature_maps(self, image: Tensor) -> Tensor:
        """Compute the maps (N, F, h, w) of the last convolution, after ReLU and before pooling."""
        features: Any = self.network.get_submodule("features")
        return features[:-1](self._prepare(image))

    def classify(self, maps: Tensor) -> Tensor:
        """Map the output of ``feature_maps`` to logits (N, 1 or K)."""
        features: Any = self.network.get_submodule("features")
        return self.network[1:](features[-1](maps))

    def head_modules(self) -> list[nn.Module]:
        """Modules that are new for the task; all other parameters belong to the backbone."""
        return [self.network.get_submodule("head")]

    def _prepare(self, image: Tensor) -> Tensor:
        x = self.normalize(image)
        size_px = (self.image_size, self.image_size)
        if x.shape[-2:] != size_px:
            x = F.interpolate(x, size=size_px, mode="bilinear")
        return x


def _build(
    in_channels: int, out_features: int, image_size: int, base_channels: int, dropout: float
) -> nn.Sequential:
    stages: list[nn.Module] = []
    width = in_channels
    for stage in range(NUM_STAGES):
        fan_in, width = width, base_channels * 2**stage
        stages += [nn.Conv2d(fan_in, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    first, second = HIDDEN_FEATURES
    network = nn.Sequential(
        OrderedDict(
            features=pool_before_relu(stages),
            flatten=nn.Flatten(),
            hidden=nn.Sequential(
                nn.Linear(width * (image_size // 2**NUM_STAGES) ** 2, first),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(first, second),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
            ),
            head=nn.Linear(second, out_features),
        )
    )
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            is_head = module is network[-1]  # no ReLU follows
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if is_head else "relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
