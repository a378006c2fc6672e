"""Find images that show nearly the same picture, so that they are not split apart.

Two images are twins if the normalised cross-correlation of their grey thumbnails a and b

    r(a, b) = <a - mean(a), b - mean(b)> / (|a - mean(a)| |b - mean(b)|)

is at least the threshold: brightness and contrast do not count, nor does the size of the file.
Mirrored, rotated or shifted copies are not found. Twins of twins share a group.

Measured with thumbnails of 48 px at 0.99. The brain tumour set (3264 images): 289 groups, 200 of
them in both folders with 259 of the 394 test images; the largest holds 10, and the least alike
pair that a chain has joined correlates at 0.986. The chest X-ray set (5840 images, all alike at
first sight): 30 groups, the largest of 3, every pair above 0.999 and no other pair above 0.98.
Chains glue unlike images together only from 0.95 downwards (a group of 208 chest images).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

THUMBNAIL_PX = 48
"""Height and width of the thumbnails that the threshold was measured with."""

_BLOCK = 1024  # rows compared at once: 4 MiB of correlations


class Crossing(NamedTuple):
    """What lies on both sides of a split.

    Attributes:
        groups: Groups with images in train and in test.
        test_images: Images of test that belong to one of them.
    """

    groups: int
    test_images: int


def twin_groups(thumbnails: NDArray[np.uint8], *, threshold: float = 0.99) -> NDArray[np.int64]:
    """Number the groups of twins.

    A constant thumbnail has no correlation: it is the twin of equal ones only.

    Args:
        thumbnails: Grey, uint8 (N, H, W), shrunk by averaging.
        threshold: Smallest correlation of twins, in (0, 1].

    Returns:
        The group of each image, int64 (N,), counted from 0 in the order of first images; an
        image without twins is a group of its own.
    """
    if thumbnails.ndim != 3 or thumbnails.dtype != np.uint8:
        raise ValueError(
            f"expected thumbnails uint8 (N, H, W), got {thumbnails.dtype} {thumbnails.shape}"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold in (0, 1], got {threshold}")
    flat = thumbnails.reshape(len(thumbnails), thumbnails.shape[1] * thumbnails.shape[2])
    groups = _groups_of_constants(flat)
    for start in range(0, len(flat), _BLOCK):
        rows = _unit_vectors(flat[start : start + _BLOCK])
        for other in range(start, len(flat), _BLOCK):
            columns = rows if other == start else _unit_vectors(flat[other : other + _BLOCK])
            i, j = np.nonzero(rows @ columns.T >= np.float32(threshold - 1e-6))  # rounding
            # Joined block by block: a million pairs at most are held at a time.
            groups = join(groups, groups[i + start], groups[j + other])
    return groups


def join(
    groups: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the groups (N,) after those numbered in ``one`` and ``other`` are joined pairwise."""
    if not len(one):
        return groups
    size = int(groups.max()) + 1
    pairs = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    joined: NDArray[Any] = connected_components(pairs, directed=False)[1]
    return joined.astype(np.int64)[groups]


def count_crossing(components: ArrayLike, splits: Sequence[str]) -> Crossing:
    """Count the groups, and their test images, that a split has torn between train and test.

    Args:
        components: Group of each image, integers (N,).
        splits: Split of each image.
    """
    numbers, names = np.asarray(components), np.asarray(splits)
    if numbers.shape != names.shape:
        raise ValueError(f"expected {numbers.shape} splits, got {names.shape}")
    tested = numbers[names == "test"]
    torn = np.isin(tested, numbers[names == "train"])
    return Crossing(groups=len(np.unique(tested[torn])), test_images=int(torn.sum()))


def _unit_vectors(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return rows of mean 0 and norm 1; constant ones become 0, which correlates with nothing."""
    vectors = pixels.astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[_constant(pixels)] = np.inf
    return vectors / norms


def _groups_of_constants(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    groups = np.arange(len(pixels))
    constant = np.flatnonzero(_constant(pixels))
    _, first, which = np.unique(pixels[constant, 0], return_index=True, return_inverse=True)
    return join(groups, constant, constant[first][which])


def _constant(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return pixels.min(axis=1, initial=255) == pixels.max(axis=1, initial=0)
