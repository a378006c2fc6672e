"""Count the pixels of a batch by true class, probability and predicted class.

Everything runs with static shapes and never asks the device for a value, so that it costs no
synchronisation on a GPU and no compilation or fallback on XLA.
"""

import torch
from torch import Tensor

NUM_BINS = 256
"""Bins of the foreground probability: the values of an 8-bit probability map."""


def foreground_probability(logits: Tensor) -> Tensor:
    """Probability that a pixel is not background.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3, of any floating type.

    Returns:
        float32 (N, H, W) in [0, 1].
    """
    if number_of_classes(logits) == 2:
        return logits[:, 0].float().sigmoid()
    return 1 - logits.float().softmax(dim=1)[:, 0]


def to_uint8(probability: Tensor) -> Tensor:
    """The 8-bit value of a probability p: min(255, floor(256 p)).

    It is at least 128 exactly where p is at least 0.5. NaN becomes 0.

    Args:
        probability: Values in [0, 1], float32.

    Returns:
        uint8, of the same shape.
    """
    return (probability * NUM_BINS).nan_to_num_(0.0).clamp_(0, NUM_BINS - 1).to(torch.uint8)


def pixel_histogram(probability: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of every image by true class and 8-bit foreground probability.

    Bins of 128 and above hold exactly the pixels with p >= 0.5. A probability of NaN lands in
    bin 0, so that a broken model reads as one that finds nothing instead of ending the epoch.

    Args:
        probability: float32 (N, H, W) in [0, 1].
        target: (N, H, W): 0 background, 1 foreground; any other value counts nowhere.

    Returns:
        int64 (N, 2, 256): images, true class, bin.
    """
    if probability.shape != target.shape:
        raise ValueError(
            f"expected target of shape {tuple(probability.shape)}, got {tuple(target.shape)}"
        )
    label = target.clamp(max=2).to(torch.int16)  # 16 bits move less memory than an index needs
    return _count(label.mul_(NUM_BINS).add_(to_uint8(probability)), (3, NUM_BINS))[:, :2]


def pixel_confusion(logits: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of every image by true and predicted class.

    The predicted class is the one with the largest logit (the first of equal ones), for binary
    logits the foreground where p >= 0.5.

    Args:
        logits: (N, 1, H, W), or (N, K, H, W) with K >= 3.
        target: (N, H, W) class indices in [0, K); any other value counts nowhere.

    Returns:
        int64 (N, K, K): images, true class, predicted class.
    """
    num_classes = number_of_classes(logits)
    if num_classes == 2:
        return halves(pixel_histogram(foreground_probability(logits), target))
    if logits[:, 0].shape != target.shape:
        raise ValueError(
            f"expected target of shape {tuple(logits[:, 0].shape)}, got {tuple(target.shape)}"
        )
    label = target.clamp(max=num_classes).to(torch.int32)
    pixel = label.mul_(num_classes).add_(_largest(logits))
    return _count(pixel, (num_classes + 1, num_classes))[:, :num_classes]


def halves(histogram: Tensor) -> Tensor:
    """Confusion at p >= 0.5, (N, 2, 2), from a histogram (N, 2, 256)."""
    return histogram.reshape(-1, 2, 2, NUM_BINS // 2).sum(3)


def number_of_classes(logits: Tensor) -> int:
    """K of logits (N, 1, H, W), which are of two classes, or (N, K, H, W)."""
    if logits.ndim != 4 or logits.shape[1] in (0, 2):
        raise ValueError(
            "expected logits of shape (N, 1, H, W), or (N, K, H, W) with K >= 3, "
            f"got {tuple(logits.shape)}"
        )
    return max(2, logits.shape[1])


def _count(value: Tensor, shape: tuple[int, int]) -> Tensor:
    """How often each value in [0, rows * columns) occurs in each image, int64 (N, *shape).

    ``scatter_add_`` rather than ``bincount``: as fast here, and it neither waits for a GPU nor
    falls back on XLA.
    """
    index = value.flatten(1).to(torch.int64)
    one = torch.ones((), dtype=torch.int64, device=value.device).expand(index.shape)
    counts = torch.zeros(
        (len(index), shape[0] * shape[1]), dtype=torch.int64, device=value.device
    ).scatter_add_(1, index, one)
    return counts.view(-1, *shape)


def _largest(logits: Tensor) -> Tensor:
    """Class with the largest logit, uint8 (N, H, W); ``argmax`` takes ten times as long on CPU."""
    largest = logits[:, 0]
    winner = torch.zeros(largest.shape, dtype=torch.uint8, device=logits.device)
    for k, logit in enumerate(logits.unbind(1)[1:], start=1):
        winner = torch.maximum(winner, (logit > largest).to(torch.uint8) * k)
        largest = torch.maximum(largest, logit)
    return winner
