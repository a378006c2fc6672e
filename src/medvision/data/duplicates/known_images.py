"""Recognise the training and validation images of a run in another data set, without keeping them.

Each image is kept as hashes only, which can be tested against a given image but not inverted:

- A salted hash of its pixels finds identical images.
- Its structure (see `candidates.structure`), without the mean structure of the set, is described by
  the signs of fixed projections of its low cosine coefficients. Each 64 signs are kept as 32 bits
  of a salted hash, so that 2^32 sets of signs fit each of them, and a wrong guess tells nothing
  about how near it was (locality-sensitive hashing, Indyk and Motwani, STOC 1998, of a sim-hash,
  Charikar, STOC 2002). Copies that are compressed, resized, toned or noisy change 1 to 6 % of the
  signs, so several hashes stay equal; different images of one kind differ in 13 % or more.

Mirrored images, those turned by 90 degrees, and those with other plain borders are found as well.
Cropped ones, and those turned by other angles, are not: they need the images themselves, as
``medvision audit ROOT --against OTHER`` has them.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.duplicates.candidates import structure
from medvision.data.duplicates.search import POSITIONS, turned_waves
from medvision.data.validation.properties import ImageProperties

Floats = NDArray[np.float32]

FORMAT = 1
"""Version of the hashes; increment it when another one would be computed for the same image."""

EQUAL = 2
"""Smallest number of equal hashes of the same picture: look-alikes reach 0, rarely 1."""

_HASHES = 64
_SIGNS = 64  # in each hash
_SIDE = 32  # pixels of a described structure
_WAVES = 12  # cosine coefficients along each axis
_LOW, _HIGH = 2, 9  # distances from the constant coefficient that are described
_MIN_NORM = 2.0  # of the coefficients of an image with content; usual ones have 8 to 15
_FEW = 10  # images: the mean of fewer would describe single ones
_STEP = 0.5  # to which the mean is rounded
_MOST = 8  # images with one equal hash that are looked at
_BLOCK = 4096


class Copy(NamedTuple):
    """Image of another set that shows a known picture.

    Attributes:
        row: Row of the image in the other set.
        known: Row of the known image.
        is_identical: True if their pixels are equal.
    """

    row: int
    known: int
    is_identical: bool


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """Hashes of N images.

    Attributes:
        salt: uint8 (16,), random, so that hashes of two runs cannot be matched.
        is_val: uint8 (N,), 1 for validation images, 0 for training images.
        pixels: uint64 (N,), hash of the pixels.
        pictures: uint32 (K, N, 64), hashes of the signs, 0 for images without content; K is 2 if
            images have plain borders, then the second is without them.
        mean: float32 (K, 12, 12), mean coefficients of the set, rounded; 0 for few images.
    """

    salt: NDArray[np.uint8]
    is_val: NDArray[np.uint8]
    pixels: NDArray[np.uint64]
    pictures: NDArray[np.uint32]
    mean: Floats

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(cls, properties: ImageProperties, is_val: NDArray[np.bool_]) -> Self:
        """Describe images.

        Args:
            properties: Properties of their files.
            is_val: (N,) True for validation images.
        """
        salt = secrets.token_bytes(16)
        views = [properties.thumbnail, properties.content]
        if (properties.content == properties.thumbnail).all():
            views = views[:1]
        waves = [_waves(view) for view in views]
        mean = np.zeros((len(views), _WAVES, _WAVES), np.float32)
        if len(properties) >= _FEW:
            mean[:] = np.round([of_view.mean(axis=0) / _STEP for of_view in waves])
            mean *= _STEP
        return cls(
            salt=np.frombuffer(salt, np.uint8),
            is_val=is_val.astype(np.uint8),
            pixels=_hashed_pixels(properties.pixel_hash, salt),
            pictures=np.stack(
                [_hashed(w - m, _is_plain(w, m), salt) for w, m in zip(waves, mean, strict=True)]
            ),
            mean=mean,
        )

    def find(self, properties: ImageProperties) -> list[Copy]:
        """Find the known images in another set: for each image at most one of each split.

        Args:
            properties: Properties of the files of the other set.
        """
        if not len(self):
            return []
        salt = self.salt.tobytes()
        best: dict[tuple[int, int], tuple[int, int]] = {}
        for row, known, equal in self._matches(properties, salt):
            place = row, int(self.is_val[known])
            if equal > best.get(place, (0, 0))[0]:
                best[place] = equal, known
        return [
            Copy(row, known, equal > _HASHES) for (row, _), (equal, known) in sorted(best.items())
        ]

    def _matches(self, properties: ImageProperties, salt: bytes) -> Iterator[tuple[int, int, int]]:
        """Yield rows of both sets and the number of equal hashes, one more for equal pixels."""
        order = np.argsort(self.pixels, kind="stable")
        of_pixels = _hashed_pixels(properties.pixel_hash, salt)
        for row, place in _equal(of_pixels, self.pixels[order]):
            yield row, int(order[place]), _HASHES + 1
        ranks = self.pictures.argsort(axis=1, kind="stable")
        tables = np.take_along_axis(self.pictures, ranks, axis=1)
        for kind, view in enumerate((properties.thumbnail, properties.content)):
            kind = min(kind, len(self.mean) - 1)
            for start in range(0, len(view), _BLOCK):
                part = _waves(view[start : start + _BLOCK])
                plain = _is_plain(part, self.mean[kind])
                for position in POSITIONS:
                    waves = turned_waves(part, position) - self.mean[kind]
                    asked = _hashed(waves, plain, salt)
                    counts: dict[tuple[int, int], int] = {}
                    for number in range(_HASHES):
                        for row, place in _equal(asked[:, number], tables[kind, :, number]):
                            pair = start + row, int(ranks[kind, place, number])
                            counts[pair] = counts.get(pair, 0) + 1
                    yield from ((*pair, n) for pair, n in counts.items() if n >= EQUAL)

    def to_bytes(self) -> bytes:
        """Content of a file of type safetensors."""
        from safetensors.numpy import save

        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return save({**columns, "format": np.array([FORMAT], np.uint8)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read the result of `to_bytes`.

        Raises:
            ValueError: If it is damaged, or of another version; the text is the reason.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            found: dict[str, NDArray[Any]] = load(content)
            stored = found.pop("format")
        except (SafetensorError, KeyError, ValueError, TypeError) as fault:
            raise ValueError("the file is damaged") from fault
        if stored.tolist() != [FORMAT]:
            raise ValueError("the hashes are of another version of medvision")
        count, kinds = len(found.get("pixels", ())), len(found.get("mean", ()))
        expected = {
            "salt": ("uint8", (16,)),
            "is_val": ("uint8", (count,)),
            "pixels": ("uint64", (count,)),
            "pictures": ("uint32", (kinds, count, _HASHES)),
            "mean": ("float32", (kinds, _WAVES, _WAVES)),
        }
        shapes = {name: (str(column.dtype), column.shape) for name, column in found.items()}
        if shapes != expected or kinds not in (1, 2):
            raise ValueError("the file is damaged")
        return cls(**found)


def _waves(thumbnails: NDArray[np.uint8]) -> Floats:
    """Compute the low cosine coefficients (N, 12, 12) of structures."""
    found = np.zeros((len(thumbnails), _WAVES, _WAVES), np.float32)
    for row, thumbnail in enumerate(thumbnails):
        small = cv2.resize(structure(thumbnail), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        found[row] = cv2.dct(small)[:_WAVES, :_WAVES]
    return found


def _is_plain(waves: Floats, mean: Floats) -> NDArray[np.bool_]:
    """Return True for images with no more structure than all images share."""
    described = _described()
    sizes = np.linalg.norm(waves[:, *described], axis=1)
    shared = float(np.linalg.norm(mean[described]))
    return np.asarray(sizes < max(_MIN_NORM, 0.9 * shared), np.bool_)


@cache
def _described() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    distance = np.hypot(*np.mgrid[:_WAVES, :_WAVES])
    rows, columns = np.nonzero((distance >= _LOW) & (distance <= _HIGH))
    return rows, columns


@cache
def _projections() -> Floats:
    """Return the fixed projections (64 * 64, D): random signs, the same everywhere."""
    size = len(_described()[0])
    words = np.random.PCG64(0).random_raw(_HASHES * _SIGNS * size)  # a stream NumPy never changes
    return (words >> np.uint64(63)).astype(np.float32).reshape(-1, size) * 2 - 1


def _hashed(waves: Floats, plain: NDArray[np.bool_], salt: bytes) -> NDArray[np.uint32]:
    """Hash the signs of the projections, (N, 64); 0 for images without content."""
    found = np.zeros((len(waves), _HASHES), np.uint32)
    rows = np.flatnonzero(~plain)
    signs = np.packbits(waves[rows][:, *_described()] @ _projections().T > 0, axis=1)
    size = _SIGNS // 8
    for row, bits in zip(rows.tolist(), signs, strict=True):
        text = bits.tobytes()
        digests = (
            hashlib.blake2b(text[k : k + size], digest_size=4, key=salt).digest()
            for k in range(0, len(text), size)
        )
        found[row] = np.frombuffer(b"".join(digests), "<u4")
    return found


def _hashed_pixels(hashes: NDArray[np.str_], salt: bytes) -> NDArray[np.uint64]:
    digests = (
        hashlib.blake2b(text.encode(), digest_size=8, key=salt).digest() for text in hashes.tolist()
    )
    return np.frombuffer(b"".join(digests), "<u8")


def _equal(
    asked: NDArray[np.unsignedinteger], there: NDArray[np.unsignedinteger]
) -> Iterator[tuple[int, int]]:
    """Yield positions of equal values, up to ``_MOST`` of each; ``there`` is sorted, 0 is none."""
    first = np.searchsorted(there, asked)
    last = np.searchsorted(there, asked, side="right")
    for row in np.flatnonzero((last > first) & (asked > 0)).tolist():
        for place in range(int(first[row]), min(int(last[row]), int(first[row]) + _MOST)):
            yield row, place
