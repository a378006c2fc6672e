"""Lesions: how many are found, how many are made up, and the scores of small and large ones.

A lesion is a connected region of the mask of one class; pixels that touch at a corner belong to one
region. Two lesions that touch are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvision.metrics.intervals import Groups, mean_interval
from medvision.types import IGNORE_INDEX

MIN_IOU = 0.5
"""Smallest IoU at which a predicted region is the detection of a lesion, as in PASCAL VOC: no two
regions can both exceed it for one lesion."""

COUNTS = ("lesions", "lesions_found", "lesions_found_iou", "false_positives", "false_positives_iou")
"""Counts of ``detected_lesions``."""

NAMES = {1: ("medium",), 2: ("small", "large"), 3: ("small", "medium", "large")}
"""Names of the groups, by number of groups."""

OVERLAPS = ("dice", "iou")
SURFACES = ("hd95_px", "hd95_px_penalised", "nsd_2px")


def size_groups(
    rows: Sequence[Mapping[str, Any]],
    *,
    foreground_share: ArrayLike,
    groups: Groups = None,
    diagonal_px: float | None = None,
) -> list[dict[str, Any]]:
    """Mean scores of images without a lesion, and of thirds of the others by lesion size.

    The size is the share of the image that its true mask covers. Images of equal size stay in one
    third, so thirds may differ in number of images; the cuts are those nearest to equal thirds, the
    lower on ties. With one or two distinct sizes there are only as many groups. An image without a
    defined Dice (every pixel ignored) is left out.

    Args:
        rows: One row per test image, (N,), as in predictions_test.csv. Uses ``dice_original`` and
            ``iou_original``, at the original image size, or ``dice`` and ``iou`` if a row has
            none; and ``hd95_px`` and ``nsd_2px`` if present. NaN, None and "" are undefined.
        foreground_share: Foreground share of each image, in [0, 1], (N,).
        groups: Group of each image, such as its patient, for the intervals.
        diagonal_px: Diagonal of the images in which HD95 was measured, its largest possible value;
            None if unknown.

    Returns:
        One dict per non-empty group, "no lesion" first, then by rising size: name, from_percent
        and to_percent (the smallest and the largest share in it), num_images, and for each score
        its mean over the images for which it is defined and, as ``_ci95``, the interval [low,
        high] of ``mean_interval``; None where too few images define it. For HD95 and surface
        Dice ``_undefined`` counts the images left out, such as missed lesions.

    Raises:
        ValueError: If lengths differ or a share is not in [0, 1].
    """
    share = np.asarray(foreground_share, np.float64)
    if share.shape != (len(rows),) or (groups is not None and len(groups) != len(rows)):
        lengths = f"{share.shape}" + ("" if groups is None else f" and {len(groups)}")
        raise ValueError(f"expected a share and a group for each of {len(rows)}, got {lengths}")
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError("expected shares in [0, 1], got other values or NaN")
    if not rows:
        return []
    names = [*OVERLAPS, *(name for name in SURFACES if any(name in row for row in rows))]
    values = {name: np.array([_score(row, name) for row in rows]) for name in names}
    counted = ~np.isnan(values["dice"])
    lesions = np.flatnonzero(counted & (share > 0))
    parts = _thirds(share[lesions])
    members = {"no lesion": np.flatnonzero(counted & (share == 0))}
    members |= {
        name: lesions[part] for name, part in zip(NAMES.get(len(parts), ()), parts, strict=True)
    }
    found = []
    for name, chosen in members.items():
        if not len(chosen):
            continue
        entry: dict[str, Any] = {
            "name": name,
            "from_percent": float(100 * share[chosen].min()),
            "to_percent": float(100 * share[chosen].max()),
            "num_images": len(chosen),
        }
        of_chosen = None if groups is None else [groups[row] for row in chosen.tolist()]
        for metric, column in values.items():
            upper = diagonal_px if metric.startswith("hd95_px") else 1.0
            entry |= _mean(metric, column[chosen], of_chosen, upper)
            if metric in SURFACES:
                entry[f"{metric}_undefined"] = int(np.isnan(column[chosen]).sum())
        found.append(entry)
    return found


def detected_lesions(
    predicted: NDArray[np.uint8],
    labelled: NDArray[np.integer[Any]],
    *,
    num_classes: int = 2,
    class_names: Sequence[str] = (),
) -> dict[str, float]:
    """Count the lesions of one image that are found, and the predicted regions without a lesion.

    By overlap, a lesion is found if any of its pixels is predicted, and a predicted region is a
    false positive if none of its pixels is labelled. By IoU, a lesion is found if its IoU with a
    predicted region is 0.5 or more, and a predicted region is a false positive if no lesion has
    that IoU with it. Pixels labelled ``IGNORE_INDEX`` are removed from both masks.

    Args:
        predicted: Class indices in [0, K), (H, W).
        labelled: Class indices in [0, K), or ``IGNORE_INDEX``, (H, W).
        num_classes: K >= 2, with the background.
        class_names: The K classes, background first; with K >= 3 they add the counts of each, such
            as ``lesions/<name>``.

    Returns:
        ``lesions``, ``lesions_found``, ``lesions_found_iou``, ``false_positives`` and
        ``false_positives_iou``: with K >= 3 the sums over the foreground classes.

    References:
        Maier-Hein et al., Metrics reloaded, Nature Methods 2024; Bunch et al., A free-response
        approach to the measurement and characterization of radiographic observer performance, 1977
    """
    if predicted.shape != labelled.shape or predicted.ndim != 2:
        raise ValueError(
            f"expected masks of one shape (H, W), got {predicted.shape} and {labelled.shape}"
        )
    counted = labelled != IGNORE_INDEX
    of_classes = [
        _detected((predicted == k) & counted, labelled == k) for k in range(1, num_classes)
    ]
    found = dict(zip(COUNTS, map(float, np.sum(of_classes, axis=0)), strict=True))
    if num_classes > 2:
        for name, counts in zip(class_names[1:], of_classes, strict=False):
            found |= {f"{key}/{name}": float(n) for key, n in zip(COUNTS, counts, strict=True)}
    return found


def _detected(predicted: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> tuple[int, ...]:
    """Compute ``COUNTS`` from the masks of one class."""
    (num_regions, regions), (num_lesions, lesions) = (
        cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for mask in (predicted, labelled)
    )
    region_px = np.bincount(regions.ravel(), minlength=num_regions)
    lesion_px = np.bincount(lesions.ravel(), minlength=num_lesions)
    both = predicted & labelled  # only these pairs overlap; a table of all pairs may be huge
    pairs = lesions[both].astype(np.int64) * num_regions + regions[both]
    pair, overlap = np.unique(pairs, return_counts=True)
    lesion, region = np.divmod(pair, num_regions)
    match = overlap / (lesion_px[lesion] + region_px[region] - overlap) >= MIN_IOU
    num_lesions, num_regions = num_lesions - 1, num_regions - 1  # without the background
    return (
        num_lesions,
        len(np.unique(lesion)),
        len(np.unique(lesion[match])),
        num_regions - len(np.unique(region)),
        num_regions - len(np.unique(region[match])),
    )


def _thirds(share: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Split positions into up to three groups of rising share; equal shares stay together."""
    sizes, place = np.unique(share, return_inverse=True)
    cuts = _cuts(np.bincount(place).cumsum()) if len(sizes) > 2 else range(len(sizes) - 1)
    group = np.searchsorted(np.array(cuts), np.arange(len(sizes)))  # of each size
    return [np.flatnonzero(group[place] == k) for k in range(min(3, len(sizes)))]


def _cuts(up_to: NDArray[np.intp]) -> tuple[int, int]:
    """Find the two sizes to cut after, given the number of images of each size or smaller."""
    total, before_last = up_to[-1], up_to[:-1]
    off = np.stack([np.abs(3 * before_last - total), np.abs(3 * before_last - 2 * total)])
    first, second = (int(row.argmin()) for row in off)
    if first < second:
        return first, second
    # one size has so many images that the same cut is the nearest to both thirds
    near = ((first - 1, first), (first, first + 1))
    pairs = [pair for pair in near if pair[0] >= 0 and pair[1] < len(before_last)]
    return min(pairs, key=lambda pair: int(off[0, pair[0]] + off[1, pair[1]]))


def _score(row: Mapping[str, Any], name: str) -> float:
    """Return the score at the original image size, NaN if undefined."""
    value = row.get(f"{name}_original", row.get(name))
    number = float("nan") if value is None or value == "" else float(value)
    return number if np.isfinite(number) else float("nan")


def _mean(
    name: str, values: NDArray[np.float64], groups: Groups, upper: float | None
) -> dict[str, Any]:
    """Compute mean and interval of the defined values."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return {name: None, f"{name}_ci95": None}
    low, high = mean_interval(values, groups=groups, upper=upper)
    ends = None if np.isnan(low) else [low, high]
    return {name: float(defined.mean()), f"{name}_ci95": ends}
