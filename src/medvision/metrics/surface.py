"""Distances between the outlines of prediction and label: HD95 and surface Dice, by MONAI.

MONAI takes ten seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.types import IGNORE_INDEX

TOLERANCE_PX = 2.0
"""Distance in pixels up to which an outline pixel counts as correct; part of ``nsd_2px``."""

Mask = NDArray[np.bool_]


def surface_distances(
    predicted: NDArray[np.uint8],
    labelled: NDArray[np.integer[Any]],
    *,
    num_classes: int = 2,
    class_names: Sequence[str] = (),
) -> dict[str, float]:
    """Compute HD95 and normalised surface Dice (NSD) at 2 px of one image, as in MONAI 1.6.

    The outline of a mask consists of its pixels with a direct neighbour outside the mask; outside
    the image everything is background. ``hd95_px`` takes the distance of each outline pixel to the
    nearest pixel of the other outline, the 95th percentile for either side, and the larger of the
    two. ``nsd_2px`` is the share of the pixels of both outlines that are within 2 px of the other.
    Distances are measured between pixel centres, in pixels of the given masks.

    ==================  =======  =================  =======
    the class is        hd95_px  hd95_px_penalised  nsd_2px
    ==================  =======  =================  =======
    only labelled       NaN      diagonal           0
    only predicted      NaN      NaN                0
    in neither mask     NaN      NaN                NaN
    ==================  =======  =================  =======

    A mean of HD95 thus leaves out missed lesions. ``hd95_px_penalised`` counts each of them as the
    diagonal of the image, the largest distance that is possible in it.

    The background has no outline of its own. Pixels labelled ``IGNORE_INDEX`` are removed from both
    masks, as with MONAI's ``ignore_index``; all scores of a fully ignored image are NaN.

    Args:
        predicted: Class indices in [0, K), (H, W).
        labelled: Class indices in [0, K), or ``IGNORE_INDEX``, (H, W).
        num_classes: K >= 2, with the background.
        class_names: The K classes, background first; with K >= 3 they add the scores of each,
            such as ``hd95_px/<name>``.

    Returns:
        ``hd95_px`` and ``hd95_px_penalised`` >= 0, and ``nsd_2px`` in [0, 1]: with K >= 3 the mean
        over the foreground classes for which each is defined.

    Raises:
        ValueError: If shapes, values or names are invalid.

    References:
        Huttenlocher et al., Comparing Images Using the Hausdorff Distance, TPAMI 1993;
        Nikolov et al., Deep learning to achieve clinically applicable segmentation, 2018,
        https://arxiv.org/abs/1809.04430
    """
    _check(predicted, labelled, num_classes, class_names)
    counted = labelled != IGNORE_INDEX
    by_class = [
        _distances((predicted == k) & counted, labelled == k) for k in range(1, num_classes)
    ]
    scores = {}
    names = ("hd95_px", "hd95_px_penalised", "nsd_2px")
    for metric, values in zip(names, zip(*by_class, strict=True), strict=True):
        scores[metric] = mean_defined(values)[0]
        if num_classes > 2:
            for name, value in zip(class_names[1:], values, strict=False):
                scores[f"{metric}/{name}"] = value
    return scores


def mean_defined(values: Iterable[float]) -> tuple[float, int]:
    """Compute the mean of the finite values (NaN if none) and the number of non-finite ones."""
    numbers = [float(value) for value in values]
    defined = [number for number in numbers if math.isfinite(number)]
    mean = float(np.mean(defined)) if defined else math.nan
    return mean, len(numbers) - len(defined)


def _distances(predicted: Mask, labelled: Mask) -> tuple[float, float, float]:
    """Compute HD95, penalised HD95 and NSD of the masks of one class."""
    either = predicted | labelled
    if not either.any():
        return math.nan, math.nan, math.nan
    if not predicted.any():
        return math.nan, math.hypot(*labelled.shape), 0.0
    if not labelled.any():
        return math.nan, math.nan, 0.0
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    box = _box(either)
    first, second = (torch.from_numpy(mask[box])[None, None] for mask in (predicted, labelled))
    with warnings.catch_warnings():
        # empty masks are expected: the result is documented above
        warnings.filterwarnings("ignore", r"the (ground truth|prediction) of class .* is all 0")
        # MONAI 1.6 passes an argument that it has deprecated itself
        warnings.filterwarnings("ignore", r".*always_return_as_numpy", FutureWarning)
        # the only channel is a foreground class, which MONAI must not leave out
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=95)
        nsd = compute_surface_dice(first, second, [TOLERANCE_PX], include_background=True)
    return float(hd95), float(hd95), float(nsd)


def _box(mask: Mask) -> tuple[slice, slice]:
    """Compute the bounding box with a margin of one pixel, clipped to the image.

    It contains every outline, and each outline pixel keeps its neighbours: the margin is empty, and
    without a margin the image ends there too.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    return slice(top, rows[-1] + 2), slice(left, columns[-1] + 2)


def _check(
    predicted: NDArray[np.uint8],
    labelled: NDArray[np.integer[Any]],
    num_classes: int,
    class_names: Sequence[str],
) -> None:
    if num_classes < 2:
        raise ValueError(f"expected two or more classes, got {num_classes}")
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"expected {num_classes} class names, got {len(class_names)}")
    if predicted.ndim != 2 or predicted.shape != labelled.shape:
        raise ValueError(
            f"expected masks of one shape (H, W), got {predicted.shape} and {labelled.shape}"
        )
    for name, mask in (("predicted", predicted), ("labelled", labelled)):
        if not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(f"expected {name} class indices, got {mask.dtype}")
        known = (mask >= 0) & (mask < num_classes)
        if name == "labelled":
            known |= mask == IGNORE_INDEX
        if not known.all():
            raise ValueError(
                f"expected {name} classes below {num_classes}, got {int(mask[~known][0])}"
            )
