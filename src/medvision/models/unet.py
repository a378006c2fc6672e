"""The classic U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvision.errors import MedvisionError
from medvision.models.base import num_logits, pad_to_multiple
from medvision.models.normalize import Normalize

NUM_LEVELS = 4


class UNet(nn.Module):
    """Encoder and decoder of four levels, joined by skip connections.

    Each level has two 3x3 convolutions with ReLU. The encoder downsamples by 2x2 max-pooling; the
    decoder upsamples by 2x2 transposed convolution and concatenates the encoder's features. A 1x1
    convolution computes the logits. Convolutions are padded, so that logits and image have the same
    size. With 64 base channels, without batch norm and for RGB images and two classes it has
    31,031,745 parameters.

    Weights use He normal initialisation, so that it trains with and without batch norm.

    Args:
        in_channels: Number of image channels.
        num_classes: K, including the background.
        base_channels: Feature maps of the first level; each level down doubles them.
        batch_norm: If True, normalise after every 3x3 convolution, which then has no bias.
        mean: Mean of pixels in [0, 1], see ``Normalize``.
        std: Standard deviation, likewise.

    Attributes:
        architecture: Display name.

    References:
        Ronneberger et al., U-Net, MICCAI 2015, https://arxiv.org/abs/1505.04597
    """

    architecture = "UNet"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 2,
        base_channels: int = 64,
        batch_norm: bool = False,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
    ) -> None:
        super().__init__()
        if not isinstance(base_channels, int) or base_channels < 1:
            raise MedvisionError(
                f"expected a whole number of feature maps, got {base_channels}",
                where="model.base_channels",
                hint="the classic U-Net uses 64; 16 is fast",
            )
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.normalize = Normalize(in_channels=in_channels, mean=mean, std=std)

        *widths, deepest = [base_channels * 2**level for level in range(NUM_LEVELS + 1)]
        self.down = nn.ModuleList(
            _double_conv(fan_in, width, batch_norm)
            for fan_in, width in pairwise([in_channels, *widths])
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = _double_conv(widths[-1], deepest, batch_norm)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
            for width in reversed(widths)
        )
        self.up = nn.ModuleList(
            JoinedConvs(*_double_conv(2 * width, width, batch_norm)) for width in reversed(widths)
        )
        self.head = nn.Conv2d(base_channels, num_logits(num_classes), kernel_size=1)
        self.apply(_initialise)
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")  # no ReLU follows

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, 1 or K, H, W)."""
        height, width = image.shape[-2:]
        x = pad_to_multiple(self.normalize(image), 2**NUM_LEVELS)

        skips: list[Tensor] = []
        for down in self.down:
            skips.append(down(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for grow, up in zip(self.grow, self.up, strict=True):
            x = up(skips.pop(), grow(x))

        return self.head(x)[..., :height, :width]

    def first_layers(self) -> list[nn.Module]:
        """Layers that see the image itself."""
        return [self.down.get_submodule("0.0")]


class JoinedConvs(nn.Sequential):
    """Sequence of layers that starts with a convolution over two concatenated feature maps."""

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        """Apply the layers to (N, C, H, W) and (N, D, H, W), concatenated to (N, C + D, H, W)."""
        x = torch.cat([skip, x], dim=1)
        for layer in self:
            x = layer(x)
        return x

    def in_parts(self, skip: Tensor, x: Tensor) -> Tensor:
        """Compute the same as a sum of two convolutions, without copying the features."""
        conv, *others = self
        assert isinstance(conv, nn.Conv2d)
        of_skip, of_x = conv.weight[:, : skip.shape[1]], conv.weight[:, skip.shape[1] :]
        x = F.conv2d(skip, of_skip, conv.bias, padding=1) + F.conv2d(x, of_x, padding=1)
        for layer in others:
            x = layer(x)
        return x


def _double_conv(in_channels: int, out_channels: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU(inplace=True))  # safe: neither preceding layer reads its own output
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    """Draw He normal weights, which keep the variance of activations constant across layers.

    PyTorch counts twice the actual inputs of the 2x2 transposed convolutions, which is correct
    here, because no ReLU halves their output.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
