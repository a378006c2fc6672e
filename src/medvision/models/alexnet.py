"""AlexNet, as torchvision has it, with pooling that compiles for every input size."""

from __future__ import annotations

import socket

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from medvision.models.base import check_dropout, num_logits, pad_to_multiple
from medvision.models.matching import Statistic
from medvision.models.normalize import Normalize
from medvision.models.weights import TIMEOUT_S, Pretrained, downloaded, load_weights


class AveragePool(nn.Module):
    """Pool maps of any size to ``size_px``, as ``nn.AdaptiveAvgPool2d`` does.

    Output i is the mean of the inputs from floor(i H / size) to ceil((i + 1) H / size). XLA has
    that for multiples of the size only, and hands every other to the host; here those are two
    matrix products.

    Args:
        size_px: Height and width of what comes out.
    """

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px = size_px

    def forward(self, maps: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C, size, size)."""
        height, width = maps.shape[-2:]
        if height % self.size_px == 0 and width % self.size_px == 0:
            return F.avg_pool2d(maps, (height // self.size_px, width // self.size_px))
        rows, columns = (_means(length, self.size_px) for length in (height, width))
        pooled = rows.to(maps) @ maps @ columns.to(maps).T
        return pooled.to(maps.dtype)


def _means(length: int, size: int) -> Tensor:
    """Matrix (size, length) whose rows average the inputs of each output."""
    weights = torch.zeros(size, length)
    for row in range(size):
        first, last = row * length // size, -(-(row + 1) * length // size)
        weights[row, first:last] = 1 / (last - first)
    return weights


SMALLEST_PX = 63
"""What three strides of pooling and one of 4 still leave a pixel of."""

IMAGENET = torchvision.models.AlexNet_Weights.IMAGENET1K_V1


class AlexNet(nn.Module):
    """Five convolutions and three dense layers, behind an average over 6x6 fields.

    Smaller images than 63 pixels are padded, so any size goes in; 224 pixels is what it was
    made for, and 150 serves small sets. For RGB images and two classes it has 57,007,937
    parameters.

    Args:
        in_channels: Channels of the images.
        num_classes: K.
        weights: ``none``, ``imagenet`` (a download of 233 MB, RGB summed for grey images), or a
            file: a state dict or a checkpoint of a run. The last layer is left out where the
            number of classes differs.
        dropout: Share of the values before each of the first two dense layers that is dropped
            in training.

    Attributes:
        architecture: Name to show.
        smallest_px: Height and width that smaller images are padded to.
        loaded_weights: Where the weights came from, and what took them.

    Raises:
        MedvisionError: If an argument is out of range or weights cannot be had.

    References:
        Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014,
        https://arxiv.org/abs/1404.5997
    """

    architecture = "AlexNet"
    smallest_px = SMALLEST_PX

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 2,
        weights: str = "none",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.in_channels = in_channels
        self.num_classes = num_classes
        network = torchvision.models.AlexNet(num_classes=num_logits(num_classes), dropout=dropout)
        network.avgpool = AveragePool(network.avgpool.output_size[0])
        if in_channels != network.features[0].in_channels:
            network.features[0] = nn.Conv2d(in_channels, 64, kernel_size=11, stride=4, padding=2)
        self.loaded_weights = load_weights(
            network,
            weights=weights,
            in_channels=in_channels,
            sources={
                "imagenet": lambda: downloaded(_fetch, name="AlexNet", hint="use a file or none")
            },
            unstated=_statistics,
            hint="give weights of torchvision's AlexNet, or of a run that trained it",
            head=("classifier.6",),
        )
        self.normalize = Normalize(
            in_channels=in_channels, mean=self.loaded_weights.mean, std=self.loaded_weights.std
        )
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, 1 or K)."""
        return self.network(self._prepare(image))

    def feature_maps(self, image: Tensor) -> Tensor:
        """Maps (N, 256, h, w) of the last convolution, rectified, before they are pooled."""
        return self.network.features[:-1](self._prepare(image))

    def classify(self, maps: Tensor) -> Tensor:
        """Map what ``feature_maps`` gives to logits (N, 1 or K)."""
        pooled = self.network.avgpool(self.network.features[-1](maps))
        return self.network.classifier(pooled.flatten(1))

    def head_modules(self) -> list[nn.Module]:
        """What is new for the task; every other parameter is of the backbone."""
        return [self.network.classifier[-1]]

    def _prepare(self, image: Tensor) -> Tensor:
        return pad_to_multiple(self.normalize(image), 1, at_least=SMALLEST_PX)


def _fetch() -> Pretrained:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torch.hub sets none, and would wait for minutes
    try:
        tensors = IMAGENET.get_state_dict(check_hash=True)
    finally:
        socket.setdefaulttimeout(before)
    return Pretrained(tensors, *_statistics())


def _statistics() -> tuple[Statistic, Statistic]:
    preparation = IMAGENET.transforms()
    return tuple(preparation.mean), tuple(preparation.std)
