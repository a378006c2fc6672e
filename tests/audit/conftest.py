"""Audited sets built from arrays, without any file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvision.audit.dataset import AuditedSet
from medvision.data.duplicates.search import NearDuplicates
from medvision.data.samples import Sample, SampleTable
from medvision.data.validation.properties import (
    IMAGE_TYPES,
    MASK_TYPES,
    ImageProperties,
    MaskProperties,
)

USUAL: dict[str, Any] = {
    "height": 64,
    "width": 64,
    "num_bytes": 4096,
    "file_format": "PNG",
    "bits": 8,
    "colour": False,
    "jpeg_quality": -1,
    "mean": 100.0,
    "std": 50.0,
    "low": 0,
    "high": 255,
    "remark": "",
}
USUAL_MASK: dict[str, Any] = {"foreground": 0.1, "grey": 0.0, "frame": 0.0, "turned": False}


def set_of(
    paths: Sequence[str] | int,
    *,
    targets: Sequence[str] | None = None,
    splits: Sequence[str] | str = "",
    groups: Sequence[str] | str = "",
    near_duplicates: Sequence[int] | None = None,
    mask: dict[str, Any] | None = None,
    faults: Sequence[tuple[str, str]] = (),
    **columns: Any,
) -> AuditedSet:
    """Build an audited set; `ImageProperties` columns not given are the same for all images.

    Args:
        paths: Of the images, or their number.
        targets: Class of each: then it is a classification set, else one of segmentation.
        splits: Of each image, or of all.
        groups: Of each image, or of all.
        near_duplicates: Group of each; by default no image has a near-duplicate.
        mask: Columns of `MaskProperties`, for segmentation.
        faults: Path and reason of files that cannot be used.
        columns: Columns of `ImageProperties`.
    """
    names = [f"images/{k:05d}.png" for k in range(paths)] if isinstance(paths, int) else paths
    count = len(names)
    each = [[v] * count if isinstance(v, str) else v for v in (splits, groups)]
    wanted = targets or [f"masks/{k:05d}.png" for k in range(count)]
    hashes = np.array([f"pixels {k}" for k in range(count)], np.str_)
    values: dict[str, Any] = {"pixel_hash": hashes, **USUAL, **columns}
    values.setdefault("thumbnail", np.zeros((count, 48, 48)))
    values.setdefault("content", values["thumbnail"])
    values.setdefault("border", np.full((count, 4), 20.0))
    masks: dict[str, Any] = {"mask_hash": [f"mask {k}" for k in range(count)], **USUAL_MASK}
    masks |= {"thumbnail": np.zeros((count, 48, 48)), **(mask or {})}
    about = None if targets else MaskProperties(**_columns(masks, MASK_TYPES, count))
    none = np.zeros(0, np.int64)
    rows = zip(names, wanted, *each, strict=True)
    return AuditedSet(
        name="set",
        task="classification" if targets else "segmentation",
        roots=(Path("set"),),
        samples=SampleTable.of(Sample(path=p, target=t, split=s, group=g) for p, t, s, g in rows),
        origin=np.zeros(count, np.int8),
        class_names=tuple(sorted(set(targets or ()))),
        properties=ImageProperties(**_columns(values, IMAGE_TYPES, count), mask=about),
        near_duplicates=NearDuplicates(
            groups=np.arange(count)
            if near_duplicates is None
            else np.asarray(near_duplicates, np.int64),
            first=none,
            second=none,
            similarity=none.astype(np.float32),
            relation=none.astype(np.uint8),
        ),
        faults=tuple(faults),
    )


def _columns(values: dict[str, Any], types: dict[str, Any], count: int) -> dict[str, Any]:
    filled = {n: np.full(count, v) if np.ndim(v) == 0 else v for n, v in values.items()}
    return {name: np.asarray(column, types[name]) for name, column in filled.items()}


@pytest.fixture
def make_set() -> Callable[..., AuditedSet]:
    """Build an audited set from arrays, see `set_of`."""
    return set_of
