"""Whether a file computes what the network in memory computes, on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvision.inference.card import ModelCard
from medvision.types import MedvisionError

LOGIT_TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest logit (of 1 where that is smaller).
Two libraries add float32 numbers in different orders: measured on trained networks of this
package up to 3e-6 of it. A wrong layer, weight or rounding makes more than a hundredth."""

PROBABILITY_TOLERANCE = 1e-3
"""Largest difference of probabilities: a quarter of a level of an 8-bit probability map, measured
up to 1e-5. Where the largest logit is 40 or more it is the stricter of the two."""

BATCH_SIZE = 4

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits and probability."""

Runner = Callable[[NDArray[np.uint8]], Outputs]
"""From images (N, S, S, C) to outputs."""


class WithProbability(nn.Module):
    """A network that also gives what its logits mean.

    Args:
        network: Gives logits (N, 1 or K, ...).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (N, C, S, S) to logits and, in the same shape, probabilities."""
        logits = self.network(image)
        return logits, logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


@dataclass(kw_only=True)
class Comparison:
    """How far two sets of outputs are apart.

    Attributes:
        logits: Largest absolute difference of logits.
        largest_logit: Largest absolute logit of the reference, at least 1.
        probability: Largest absolute difference of probabilities.
        same: Pixels, or images, that get the same class.
        total: All of them.
    """

    logits: float = 0.0
    largest_logit: float = 1.0
    probability: float = 0.0
    same: int = 0
    total: int = 0

    @property
    def holds(self) -> bool:
        """Whether both differences are within tolerance; NaN is not."""
        return (
            self.logits <= LOGIT_TOLERANCE * self.largest_logit
            and self.probability <= PROBABILITY_TOLERANCE
        )

    @property
    def same_percent(self) -> float:
        """Share of pixels, or images, that get the same class, in per cent."""
        return 100 * self.same / self.total


def in_float32(network: nn.Module) -> Runner:
    """Run a network in float32 on the CPU, the reference: no autocast, plain memory format."""
    model = WithProbability(network)

    def run(images: NDArray[np.uint8]) -> Outputs:
        batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            logits, probability = model(batch)
        return logits.numpy(), probability.numpy()

    return run


def batches(images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The first image alone, then all of them in batches, that one twice.

    So there is a batch of one and a larger one however few the images are.

    Args:
        images: At least one; each (S, S, C).
    """
    stream = iter(images)
    first = next(stream)
    yield first[None]
    twice = chain([first, first], stream)
    while batch := list(islice(twice, BATCH_SIZE)):
        yield np.stack(batch)


def compare(
    reference: Runner,
    exported: Runner,
    images: Iterable[NDArray[np.uint8]],
    card: ModelCard,
    *,
    where: str,
) -> Comparison:
    """Run both on the same batches.

    Args:
        reference: The network in memory.
        exported: The file.
        images: As ``batches`` takes them.
        card: Says how classes are chosen.
        where: The file, for messages.

    Raises:
        MedvisionError: If the outputs differ in shape or the network's are not finite.
    """
    found = Comparison()
    for batch in batches(images):
        wanted, given = reference(batch), exported(batch)
        if any(a.shape != b.shape for a, b in zip(wanted, given, strict=True)):
            raise MedvisionError(
                f"the exported network gives {given[0].shape} for a batch of {len(batch)},"
                f" expected {wanted[0].shape}",
                where=where,
                hint="no file was written; export to safetensors",
                exit_code=3,
            )
        if not np.isfinite(wanted[0]).all():
            raise MedvisionError(
                "the logits of the network are not finite",
                where=where,
                hint="no file was written; use another checkpoint",
                exit_code=3,
            )
        found.logits = _larger(found.logits, wanted[0], given[0])
        found.probability = _larger(found.probability, wanted[1], given[1])
        found.largest_logit = max(found.largest_logit, float(np.abs(wanted[0]).max()))
        same = _classes(wanted[1], card) == _classes(given[1], card)
        found.same += int(np.count_nonzero(same))
        found.total += same.size
    return found


def _larger(so_far: float, a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Maximum of both, which NaN is and stays."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return float(np.maximum(so_far, np.abs(a - b).max()))


def _classes(probability: NDArray[np.float32], card: ModelCard) -> NDArray[np.integer]:
    if probability.shape[1] == 1:
        return (probability >= card.threshold).astype(np.uint8)
    return probability.argmax(axis=1)
