"""AlexNet of 2014 (torchvision) and of 2012, with pooling that compiles for every input size."""

from __future__ import annotations

import socket
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.models.base import (
    check_dropout,
    num_logits,
    pad_to_multiple,
    pool_before_relu,
)
from medvision.models.matching import Statistic
from medvision.models.normalize import Normalize
from medvision.models.weights import TIMEOUT_S, Pretrained, downloaded, load_weights


class AveragePool(nn.Module):
    """Pool maps of any size to ``size_px``, as ``nn.AdaptiveAvgPool2d`` does.

    Output i is the mean of the inputs from floor(i H / size) to ceil((i + 1) H / size). XLA
    supports this only for multiples of the size and otherwise falls back to the host; here it is
    two matrix products.

    Args:
        size_px: Height and width of the output.
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
"""Smallest size of which three pooling strides and one stride of 4 leave one pixel."""

IMAGENET = torchvision.models.AlexNet_Weights.IMAGENET1K_V1


Version = Literal[2012, 2014]


def _features_2012(in_channels: int) -> nn.Sequential:
    """Convolutions of 2012: local response normalisation, and half of them in two groups.

    Weights are drawn from N(0, 0.01); biases are 1 in the second, fourth and fifth layer. The paper
    sums the squares of 5 channels with a factor of 1e-4; PyTorch averages them.
    """
    normalize = partial(nn.LocalResponseNorm, 5, alpha=5e-4, beta=0.75, k=2.0)
    features = nn.Sequential(
        nn.Conv2d(in_channels, 96, kernel_size=11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        normalize(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        normalize(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(256, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            _draw(layer, bias=float(layer.groups == 2))
    return features


def _draw(layer: nn.Conv2d | nn.Linear, *, bias: float) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]  # these layers have a bias


class AlexNet(nn.Module):
    """Five convolutions and three dense layers, joined by average pooling to 6x6.

    Images smaller than 63 pixels are padded, so any size is accepted; it was designed for 224
    pixels, and 150 is enough for small data sets. For RGB images and two classes it has 57,007,937
    parameters, in the version of 2012 56,872,321.

    Args:
        in_channels: Number of image channels.
        num_classes: K.
        version: ``2014``, torchvision's, or ``2012``: 96 instead of 64 channels in the first
            layer, local response normalisation, grouped convolutions, and the initialisation of
            the paper. Pretrained weights exist for 2014 only.
        weights: ``none``, ``imagenet`` (a download of 233 MB, RGB summed for grey images), or a
            file: a state dict or a checkpoint of a run. The last layer is not loaded if the
            number of classes differs.
        dropout: Dropout rate before each of the first two dense layers.

    Attributes:
        architecture: Display name.
        smallest_px: Height and width to which smaller images are padded.
        loaded_weights: Source of the weights, and the tensors that were filled.

    Raises:
        MedvisionError: If an argument is out of range or weights are unavailable.

    References:
        Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014,
        https://arxiv.org/abs/1404.5997
        Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural
        networks, 2012, https://papers.nips.cc/paper/4824
    """

    architecture = "AlexNet"
    smallest_px = SMALLEST_PX

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 2,
        version: Version = 2014,
        weights: str = "none",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if version not in get_args(Version):
            raise MedvisionError(
                f"unknown AlexNet version {version}",
                where="model.version",
                hint=f"use {' or '.join(map(str, get_args(Version)))}",
            )
        self.in_channels = in_channels
        self.num_classes = num_classes
        network = torchvision.models.AlexNet(num_classes=num_logits(num_classes), dropout=dropout)
        network.avgpool = AveragePool(network.avgpool.output_size[0])
        if version == 2012:
            network.features = _features_2012(in_channels)
            for layer in network.classifier:
                if isinstance(layer, nn.Linear):
                    _draw(layer, bias=float(layer is not network.classifier[-1]))
        elif in_channels != network.features[0].in_channels:
            network.features[0] = nn.Conv2d(in_channels, 64, kernel_size=11, stride=4, padding=2)
        network.features = pool_before_relu(network.features)
        fetch = partial(downloaded, _fetch, name="AlexNet", hint="use a file or none")
        self.loaded_weights = load_weights(
            network,
            weights=weights,
            in_channels=in_channels,
            sources={"imagenet": fetch} if version == 2014 else {},
            unstated=_statistics,
            hint="use weights of torchvision's AlexNet, or of a run with AlexNet",
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
        """Compute the maps (N, 256, h, w) of the last convolution after ReLU, before pooling."""
        return self.network.features[:-1](self._prepare(image))

    def classify(self, maps: Tensor) -> Tensor:
        """Map the output of ``feature_maps`` to logits (N, 1 or K)."""
        pooled = self.network.avgpool(self.network.features[-1](maps))
        return self.network.classifier(pooled.flatten(1))

    def head_modules(self) -> list[nn.Module]:
        """Modules that are new for the task; all other parameters belong to the backbone."""
        return [self.network.classifier[-1]]

    def _prepare(self, image: Tensor) -> Tensor:
        return pad_to_multiple(self.normalize(image), 1, at_least=SMALLEST_PX)


def _fetch() -> Pretrained:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torch.hub sets no timeout and would wait for minutes
    try:
        tensors = IMAGENET.get_state_dict(check_hash=True)
    finally:
        socket.setdefaulttimeout(before)
    return Pretrained(tensors, *_statistics())


def _statistics() -> tuple[Statistic, Statistic]:
    preparation = IMAGENET.transforms()
    return tuple(preparation.mean), tuple(preparation.std)
