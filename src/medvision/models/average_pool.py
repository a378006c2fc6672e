"""Average pooling to a fixed size that compiles for every size of input."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
