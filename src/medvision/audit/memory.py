"""What memory alone scores: the answer of the nearest training image, without any network.

Each test image takes the class, or the mask, of the training image nearest to it: least
Euclidean distance between grey thumbnails of 48 px, of equal distances the first. A network that
does no better has learned nothing beyond that. Images with a twin in train are counted apart:
there, memory is right for no reason that holds for a new patient.

Measured on the copies in hand (accuracy; with a twin, without one): brain tumours .802 (.992,
.437), chest X-rays .769 (no twins).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet
from medvision.metrics.intervals import bootstrap_mean_interval

MAX_QUERIES = 10_000
"""More images are not asked for their neighbour: every k-th of them tells as much."""

_QUERIES, _ROWS = 2048, 4096  # compared at once: 32 MiB of distances, 36 MiB of training rows

Protocol = Literal["test split", "leave one out"]


@dataclass(frozen=True, kw_only=True)
class MemoryBaseline:
    """The nearest neighbour of each test image, and what its answer is worth.

    Attributes:
        protocol: ``test split`` looks for neighbours of test in train; without these two,
            ``leave one out`` looks for that of each image among all others.
        metric: ``accuracy``, or ``dice`` of mask thumbnails.
        rows: Row of each image that was asked, (Q,).
        neighbour: Row of its nearest neighbour, (Q,).
        score: Of each image, (Q,): 1 or 0 for a right or wrong class, or Dice in [0, 1].
        has_twin: Whether it has a twin among the images that neighbours come from, (Q,).
        labels: Class index of each image, (Q,); -1 for segmentation.
        groups: Group of each image, as intervals need them, (Q,).
        chance: What the same images score without looking at them: the class that is most
            frequent where neighbours come from, or foreground everywhere.
        num_images: Images that could be asked; more than Q where every k-th was.
    """

    protocol: Protocol
    metric: Literal["accuracy", "dice"]
    rows: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    score: NDArray[np.float64]
    has_twin: NDArray[np.bool_]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    chance: float
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """The part ``memory_baseline`` of audit.json: plain values, None where undefined."""
        everyone = np.ones(len(self.rows), np.bool_)
        found = {
            "protocol": self.protocol,
            **self._part(everyone),
            "chance": self.chance,
            "with_twin": self._part(self.has_twin),
            "without_twin": self._part(~self.has_twin),
            "of_images": self.num_images,
            "compared": "Euclidean distance of grey thumbnails, 48 px",
        }
        if self.metric == "dice":
            found["measured_on"] = "masks at 48 px, foreground from half a cell"
        return found

    def _part(self, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        """Number of images and their mean score with its interval."""
        score = self.score[chosen]
        part: dict[str, Any] = {"num_images": len(score), self.metric: None}
        part[f"{self.metric}_ci95"] = None
        if not len(score):
            return part
        part[self.metric] = float(score.mean())
        groups = [self.groups[row] for row in np.flatnonzero(chosen)]
        part[f"{self.metric}_ci95"] = list(_interval(score, groups, self.metric))
        if self.metric == "accuracy":
            labels = self.labels[chosen]
            totals, right = np.bincount(labels), np.bincount(labels, weights=score)
            there = totals > 0
            part["balanced_accuracy"] = float((right[there] / totals[there]).mean())
        return part


def memory_baseline(data: AuditedSet) -> MemoryBaseline | None:
    """Give every test image the answer of its nearest training image.

    Takes memory for a block of distances only. Thumbnails are compared at 128 grey levels: sums
    of their products are whole numbers below 2**24, which float32 holds exactly in any order, so
    that no machine finds another neighbour.

    Args:
        data: The set; of test images beyond ``MAX_QUERIES`` every k-th is asked.

    Returns:
        None where no image has another one to learn from, or there are neither classes nor
        masks.
    """
    if not data.has_classes and not data.has_masks:
        return None
    splits = data.splits
    asked, known = np.flatnonzero(splits == "test"), np.flatnonzero(splits == "train")
    protocol: Protocol = "test split" if len(asked) and len(known) else "leave one out"
    if protocol == "leave one out":
        asked = known = np.arange(len(data))
    if len(known) < 2 and protocol == "leave one out":
        return None
    num_images = len(asked)
    asked = asked[:: -(-num_images // MAX_QUERIES)]
    neighbour = known[nearest(data.properties.thumbnail, asked, known)]
    groups = data.near_duplicates.groups
    twins = np.bincount(groups[known], minlength=int(groups.max()) + 1)
    if data.has_classes:
        score = (data.labels[neighbour] == data.labels[asked]).astype(np.float64)
        usual = np.bincount(data.labels[known]).argmax()
        chance = float((data.labels[asked] == usual).mean())
    else:
        masks = data.masks.thumbnail
        score = np.array(
            [mask_dice(masks[a], masks[b]) for a, b in zip(asked, neighbour, strict=True)]
        )
        full = np.full_like(masks[:1], 255)[0]
        chance = float(np.mean([mask_dice(masks[row], full) for row in asked]))
    return MemoryBaseline(
        protocol=protocol,
        metric="accuracy" if data.has_classes else "dice",
        rows=asked,
        neighbour=neighbour,
        score=score,
        has_twin=twins[groups[asked]] > (protocol == "leave one out"),  # it is not its own twin
        labels=data.labels[asked],
        groups=tuple(data.samples[row].group_key for row in asked.tolist()),
        chance=chance,
        num_images=num_images,
    )


def nearest(
    thumbnails: NDArray[np.uint8], asked: NDArray[np.int64], known: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Place in ``known`` of the nearest other image of each one in ``asked``, (Q,).

    Args:
        thumbnails: Grey, (N, 48, 48).
        asked: Rows whose neighbour is wanted, (Q,).
        known: Rows that are neighbours, (R,); a row is not its own.
    """
    half_norm = np.concatenate(
        [(_levels(thumbnails[part]) ** 2).sum(axis=1) / 2 for part in _parts(known, _ROWS)]
    )
    found = []
    for queries in _parts(asked, _QUERIES):
        vectors = _levels(thumbnails[queries])
        best = np.full(len(queries), np.inf, np.float32)
        place = np.zeros(len(queries), np.int64)
        for start in range(0, len(known), _ROWS):
            part = known[start : start + _ROWS]
            # half the squared distance, less what all neighbours of a query have in common
            distance = half_norm[start : start + len(part)] - vectors @ _levels(thumbnails[part]).T
            if np.isin(queries, part).any():
                distance[queries[:, None] == part[None]] = np.inf
            here = distance.argmin(axis=1)
            lowest = distance[np.arange(len(queries)), here]
            nearer = lowest < best
            best[nearer], place[nearer] = lowest[nearer], here[nearer] + start
        found.append(place)
    return np.concatenate(found)


def mask_dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Dice of two mask thumbnails, foreground being cells that are at least half of it."""
    a, b = one >= 128, other >= 128
    overlap, total = np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)
    return float((2 * overlap + 1e-7) / (total + 1e-7))


def _levels(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of grey levels in [-64, 63]."""
    flat = thumbnails.reshape(len(thumbnails), -1) >> 1
    return flat.astype(np.float32) - np.float32(64)


def _parts(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _interval(
    score: NDArray[np.float64], groups: Sequence[str], metric: str
) -> tuple[float, float]:
    """95 % interval of the mean; exact where every class is right, or every one wrong."""
    low, high = bootstrap_mean_interval(score, groups=groups)
    if metric == "accuracy" and low == high:
        bound = 0.025 ** (1 / len(set(groups)))  # Clopper-Pearson of n of n
        return (bound, 1.0) if low == 1 else (0.0, 1 - bound)
    return low, high
