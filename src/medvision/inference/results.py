"""Predictions for one image, and the files that ``medvision predict`` writes for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.inference.model_card import ModelCard
from medvision.reports.plots.overlays import draw_overlay

Image = NDArray[np.uint8]
Float = TypeVar("Float", np.float32, np.float64)
"""(H, W, C) in [0, 255], C is 1 (grey) or 3 (RGB)."""


MEASURED = ("foreground_px", "foreground_percent", "num_regions", "mean_confidence")
"""Properties of ``SegmentationResult`` that are columns of ``predictions.csv``."""


class Result(ABC):
    """Prediction for one image.

    Attributes:
        image: The image itself (H, W, C).
    """

    image: Image

    @classmethod
    @abstractmethod
    def from_logits(cls, image: Image, logits: NDArray[np.float32], card: ModelCard) -> Self:
        """Create a result from the network output for one image, (K,) or (K, S, S)."""

    @staticmethod
    @abstractmethod
    def columns(card: ModelCard) -> list[str]:
        """List the columns of ``predictions.csv`` for this task."""

    @abstractmethod
    def row(self) -> dict[str, Any]:
        """Return the values of these columns; names of written files are added by the writer."""

    def pictures(self, *, overlays: bool, probabilities: bool) -> dict[str, Image]:  # noqa: ARG002
        """Return the pictures to write, by their folder."""
        return {}

    @property
    def title(self) -> str | None:
        """Caption of the image in a grid of all results; None if the task has no grid."""
        return None


@dataclass(frozen=True, kw_only=True)
class SegmentationResult(Result):
    """A class for every pixel of the image, at its original size.

    Attributes:
        image: The image itself (H, W, C).
        logits: float32 (H, W) of the foreground, or (H, W, K) with K >= 3 classes.
        class_names: The K classes, the background first.
        threshold: For two classes, probability from which a pixel is foreground.
    """

    image: Image
    logits: NDArray[np.float32]
    class_names: tuple[str, ...]
    threshold: float = 0.5

    @classmethod
    def from_logits(cls, image: Image, logits: NDArray[np.float32], card: ModelCard) -> Self:
        return cls(
            image=image,
            logits=enlarge(logits, (image.shape[0], image.shape[1])),
            class_names=card.class_names,
            threshold=card.threshold,
        )

    @staticmethod
    def columns(card: ModelCard) -> list[str]:
        names = card.class_names[1:] if card.num_classes > 2 else ()
        return ["mask", *MEASURED, *(f"foreground_px/{name}" for name in names)]

    def row(self) -> dict[str, Any]:
        row = {name: getattr(self, name) for name in MEASURED}
        if self.logits.ndim == 3:
            counts = np.bincount(self.mask.ravel(), minlength=len(self.class_names))
            named = zip(self.class_names[1:], counts[1:], strict=True)
            row |= {f"foreground_px/{name}": int(count) for name, count in named}
        return row

    def pictures(self, *, overlays: bool, probabilities: bool) -> dict[str, Image]:
        two = self.logits.ndim == 2
        found = {"masks": self.mask * np.uint8(255) if two else self.mask}
        if overlays:
            found["overlays"] = self.overlay()
        if probabilities:
            found["probabilities"] = to_uint8(
                self.probability if two else 1 - self.probability[..., 0]
            )
        return found

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """Foreground probability (H, W) in [0, 1]; with K >= 3 classes that of each, (H, W, K)."""
        if self.logits.ndim == 2:
            return sigmoid(self.logits)
        return softmax(self.logits)

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """Class index of every pixel, (H, W)."""
        return predicted_classes(self.logits, threshold=self.threshold)

    @property
    def foreground_px(self) -> int:
        """Number of pixels that are not background."""
        return int(np.count_nonzero(self.mask))

    @property
    def foreground_percent(self) -> float:
        """Share of foreground pixels, in per cent."""
        return 100 * self.foreground_px / self.mask.size

    @cached_property
    def num_regions(self) -> int:
        """Number of connected regions (8-connectivity), each of one foreground class."""
        classes = [1] if self.logits.ndim == 2 else np.unique(self.mask[self.mask > 0]).tolist()
        return sum(
            cv2.connectedComponents((self.mask == k).astype(np.uint8), connectivity=8)[0] - 1
            for k in classes
        )

    @property
    def mean_confidence(self) -> float:
        """Mean over the pixels of the probability of the predicted class, in [0, 1]."""
        if self.logits.ndim == 2:
            p = self.probability
            return float(np.where(self.mask > 0, p, 1 - p).mean(dtype=np.float64))
        chosen = np.take_along_axis(self.probability, self.mask[..., None].astype(np.intp), axis=2)
        return float(chosen.mean(dtype=np.float64))

    def overlay(self) -> Image:
        """The image and, to its right, the image with the contours of the mask, RGB (H, 2 W, 3)."""
        return draw_overlay(self.image, self.mask)


@dataclass(frozen=True, kw_only=True)
class ClassificationResult(Result):
    """A probability for each class of one image.

    Attributes:
        image: The image itself (H, W, C).
        probability: Probability of each class by name; they sum to 1.
        predicted: Predicted class.
    """

    image: Image
    probability: dict[str, float]
    predicted: str

    @classmethod
    def from_logits(cls, image: Image, logits: NDArray[np.float32], card: ModelCard) -> Self:
        exact = np.asarray(logits, np.float64)
        if card.num_classes == 2:
            values = sigmoid(np.append(-exact, exact)).tolist()  # 1 - p would round
            chosen = int(values[1] >= card.threshold)
        else:
            values = softmax(exact).tolist()
            chosen = int(logits.argmax())
        probability = dict(zip(card.class_names, values, strict=True))
        return cls(image=image, probability=probability, predicted=card.class_names[chosen])

    @staticmethod
    def columns(card: ModelCard) -> list[str]:
        return ["predicted", *(f"probability/{name}" for name in card.class_names)]

    def row(self) -> dict[str, Any]:
        probability = {f"probability/{name}": p for name, p in self.probability.items()}
        return {"predicted": self.predicted, **probability}

    @property
    def title(self) -> str:
        return f"{self.predicted} {100 * self.confidence:.1f} %"

    @property
    def confidence(self) -> float:
        """Probability of the predicted class."""
        return self.probability[self.predicted]


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise p to 8 bits: min(255, floor(256 p)); p >= 0.5 gives 128 and more."""
    return np.minimum(probability * 256, 255).astype(np.uint8)


def sigmoid(logits: NDArray[Float]) -> NDArray[Float]:
    """Compute 1 / (1 + exp(-x)); at least 0.5 exactly where x >= 0 or rounds to it."""
    with np.errstate(over="ignore"):  # exp of a large number is infinity, and its inverse 0
        return np.asarray(1 / (1 + np.exp(-logits)), logits.dtype)


def softmax(logits: NDArray[Float]) -> NDArray[Float]:
    """Compute probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def predicted_classes(logits: NDArray[np.float32], *, threshold: float = 0.5) -> NDArray[np.uint8]:
    """Predict the class index of every pixel (H, W) from logits (H, W) or (H, W, K)."""
    if logits.ndim == 2:
        return (sigmoid(logits) >= threshold).astype(np.uint8)
    return logits.argmax(axis=2).astype(np.uint8)


def enlarge(logits: NDArray[np.float32], size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Resize logits to height and width of the original image, bilinearly between pixel centres.

    Args:
        logits: (K, S, S).
        size_px: H and W.

    Returns:
        (H, W) for K = 1, else (H, W, K).
    """
    height, width = size_px
    planes = [cv2.resize(plane, (width, height)) for plane in logits]
    return planes[0] if len(planes) == 1 else np.stack(planes, axis=2)
