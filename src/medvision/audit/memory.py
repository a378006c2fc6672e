"""Nearest-neighbour baseline: predict the target of the nearest training image.

Each test image takes the class, or the mask, of the training image nearest to it: the smallest
Euclidean distance between grey thumbnails of 48 px, the first for equal distances. A network that
scores no higher has learned nothing beyond that. Images with a near-duplicate in train are counted
separately: a correct match there does not generalise to a new patient.

Measured accuracy (with, without a near-duplicate): brain tumours .802 (.992, .437), chest X-rays
.769 (no near-duplicates).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet
from medvision.metrics.intervals import mean_interval, proportion_interval

MAX_QUERIES = 10_000
"""Largest number of queries; of more images, every k-th is used."""

_QUERIES, _ROWS = 2048, 4096  # per block: 32 MiB of distances, 36 MiB of training rows

Protocol = Literal["test split", "leave one out", "leave one group out"]


@dataclass(frozen=True, kw_only=True)
class MemoryBaseline:
    """Nearest neighbour of each test image, and its score.

    Attributes:
        protocol: ``test split`` searches train for the neighbours of test images; without these
            splits, ``leave one out`` searches all other images for each image, and ``leave one
            group out`` all images of other groups where groups are known: frames of one video are
            not independent.
        metric: ``accuracy``, or ``dice`` of mask thumbnails.
        rows: Row of each query image, (Q,).
        neighbour: Row of its nearest neighbour, (Q,).
        score: Score of each image, (Q,): 1 or 0 for a correct or wrong class, or Dice in [0, 1].
        has_near_duplicate: True if it has a near-duplicate among the candidate neighbours, (Q,).
        labels: Class index of each image, (Q,); -1 for segmentation.
        groups: Group of each image, for the intervals, (Q,).
        chance: Score of a constant prediction on the same images: the most frequent class among the
            candidate neighbours, or foreground everywhere.
        num_images: Number of possible queries; more than Q if only every k-th was used.
    """

    protocol: Protocol
    metric: Literal["accuracy", "dice"]
    rows: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    score: NDArray[np.float64]
    has_near_duplicate: NDArray[np.bool_]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    chance: float
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Entry ``memory_baseline`` of audit.json: plain values, None where undefined."""
        everyone = np.ones(len(self.rows), np.bool_)
        found = {
            "protocol": self.protocol,
            **self._part(everyone),
            "chance": self.chance,
            "with_twin": self._part(self.has_near_duplicate),
            "without_twin": self._part(~self.has_near_duplicate),
            "of_images": self.num_images,
            "compared": "Euclidean distance of grey thumbnails, 48 px",
        }
        if self.metric == "dice":
            found["measured_on"] = "masks at 48 px, foreground if at least half of a cell"
        return found

    def _part(self, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the number of chosen images and their mean score with its interval."""
        score = self.score[chosen]
        part: dict[str, Any] = {"num_images": len(score), self.metric: None}
        part[f"{self.metric}_ci95"] = None
        if not len(score):
            return part
        part[self.metric] = float(score.mean())
        groups = [self.groups[row] for row in np.flatnonzero(chosen)]
        interval = proportion_interval if self.metric == "accuracy" else mean_interval
        low, high = interval(score, groups=groups)
        part[f"{self.metric}_ci95"] = None if np.isnan(low) else [low, high]
        if self.metric == "accuracy":
            labels = self.labels[chosen]
            totals, right = np.bincount(labels), np.bincount(labels, weights=score)
            there = totals > 0
            part["balanced_accuracy"] = float((right[there] / totals[there]).mean())
        return part


def memory_baseline(data: AuditedSet) -> MemoryBaseline | None:
    """Predict the target of each test image from its nearest training image.

    Memory use is limited to a block of distances. Thumbnails are compared at 128 grey levels: sums
    of their products are integers below 2**24, which float32 represents exactly in any order of
    summation, so every machine finds the same neighbour.

    Args:
        data: The data set; of more than ``MAX_QUERIES`` test images, every k-th is used.

    Returns:
        The baseline, or None if no image has a candidate neighbour, or there are neither classes
        nor masks.
    """
    if not data.has_classes and not data.has_masks:
        return None
    splits = data.splits
    queries, known = np.flatnonzero(splits == "test"), np.flatnonzero(splits == "train")
    protocol: Protocol = "test split" if len(queries) and len(known) else "leave one out"
    if protocol == "leave one out":
        queries = known = np.arange(len(data))
    if len(known) < 2 and protocol == "leave one out":
        return None
    num_images = len(queries)
    queries = queries[:: -(-num_images // MAX_QUERIES)]
    apart = None
    if protocol == "leave one out":
        given, alone = data.samples.groups, np.arange(len(data))
        number = np.where(given.equal(""), len(data) + alone, given.numbered()[1])
        number = np.unique(number, return_inverse=True)[1]
        if 1 < number.max() + 1 < len(data):
            protocol, apart = "leave one group out", number
    neighbour = known[nearest(data.properties.thumbnail, queries, known, apart=apart)]
    groups = data.near_duplicates.groups
    group_sizes = np.bincount(groups[known], minlength=int(groups.max()) + 1)
    own: NDArray[np.int64] | int = int(protocol != "test split")  # not its own near-duplicate
    if apart is not None:  # nor is one of its group a candidate
        together = np.unique(groups * (apart.max() + 1) + apart, return_inverse=True)[1]
        own = np.bincount(together)[together[queries]]
    if data.has_classes:
        score = (data.labels[neighbour] == data.labels[queries]).astype(np.float64)
        usual = np.bincount(data.labels[known]).argmax()
        chance = float((data.labels[queries] == usual).mean())
    else:
        masks = data.masks.thumbnail
        score = np.array(
            [mask_dice(masks[a], masks[b]) for a, b in zip(queries, neighbour, strict=True)]
        )
        full = np.full_like(masks[:1], 255)[0]
        chance = float(np.mean([mask_dice(masks[row], full) for row in queries]))
    return MemoryBaseline(
        protocol=protocol,
        metric="accuracy" if data.has_classes else "dice",
        rows=queries,
        neighbour=neighbour,
        score=score,
        has_near_duplicate=group_sizes[groups[queries]] > own,
        labels=data.labels[queries],
        groups=tuple(data.samples[row].group_key for row in queries.tolist()),
        chance=chance,
        num_images=num_images,
    )


def nearest(
    thumbnails: NDArray[np.uint8],
    queries: NDArray[np.int64],
    known: NDArray[np.int64],
    *,
    apart: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the index into ``known`` of the nearest other image of each query, (Q,).

    Args:
        thumbnails: Grey, (N, 48, 48).
        queries: Rows of the query images, (Q,).
        known: Rows of the candidate neighbours, (R,); a row never matches itself.
        apart: Group of each thumbnail, (N,): images of one group never match; None for no groups.
    """
    half_norm = np.concatenate(
        [(_levels(thumbnails[part]) ** 2).sum(axis=1) / 2 for part in _parts(known, _ROWS)]
    )
    found = []
    for chunk in _parts(queries, _QUERIES):
        vectors = _levels(thumbnails[chunk])
        best = np.full(len(chunk), np.inf, np.float32)
        place = np.zeros(len(chunk), np.int64)
        for start in range(0, len(known), _ROWS):
            part = known[start : start + _ROWS]
            # half the squared distance, without the term that is constant for each query
            distance = half_norm[start : start + len(part)] - vectors @ _levels(thumbnails[part]).T
            if apart is not None:
                distance[apart[chunk][:, None] == apart[part][None]] = np.inf
            elif np.isin(chunk, part).any():
                distance[chunk[:, None] == part[None]] = np.inf
            here = distance.argmin(axis=1)
            lowest = distance[np.arange(len(chunk)), here]
            nearer = lowest < best
            best[nearer], place[nearer] = lowest[nearer], here[nearer] + start
        found.append(place)
    return np.concatenate(found)


def mask_dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Compute the Dice of two mask thumbnails; foreground cells are at least half foreground."""
    a, b = one >= 128, other >= 128
    overlap, total = np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)
    return float((2 * overlap + 1e-7) / (total + 1e-7))


def _levels(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return flattened grey levels in [-64, 63]."""
    flat = thumbnails.reshape(len(thumbnails), -1) >> 1
    return flat.astype(np.float32) - np.float32(64)


def _parts(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
