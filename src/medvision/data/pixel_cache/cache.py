"""Keep decoded images at the size of the network, so that files are decoded in one epoch only.

What is kept is what random augmentation begins with. It is found by the content of the files, which
are still read in every epoch: no file that has changed, is damaged or is gone goes unnoticed.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features
from torch.utils.data import get_worker_info

from medvision.data.loading.transforms import Pair, resize_image, resize_pair
from medvision.data.pixel_cache.store import CAN_KEEP, KEY_BYTES, PixelStore
from medvision.data.samples import Sample
from medvision.errors import MedvisionError

FORMAT = 1
"""Grows when this package decodes or resizes otherwise: what was kept is then found by nobody."""

GIGABYTE = 10**9

_OFF = "every epoch decodes the images anew"


class PairFiles(Protocol):
    """A source that tells what is in the files from what it means."""

    @property
    def channels(self) -> int:
        """C of its images."""
        ...

    def image_file(self, sample: Sample) -> bytes:
        """Bytes of the image file."""
        ...

    def mask_file(self, sample: Sample) -> bytes:
        """Bytes of the mask file."""
        ...

    def decode_image(self, sample: Sample, image: bytes) -> NDArray[np.uint8]:
        """The image alone, from these bytes."""
        ...

    def decode(self, sample: Sample, image: bytes, mask: bytes) -> Pair:
        """Image (H, W, C) in [0, 255] and class indices (H, W), from these bytes."""
        ...


class ImageFiles(Protocol):
    """The same for images without masks."""

    @property
    def channels(self) -> int:
        """C of its images."""
        ...

    def image_file(self, path: str) -> bytes:
        """Bytes of the image file."""
        ...

    def decode(self, path: str, image: bytes) -> NDArray[np.uint8]:
        """Image (H, W, C) in [0, 255], from these bytes."""
        ...


class PixelCache:
    """Decoded and resized images of one data set, on the disk.

    A disk that is full or cannot be written ends no training: what cannot be kept is decoded each
    time. ``notes`` says so before a training, the log of the first loader process in the middle.

    Args:
        folder: Of the kept images of all data sets; made where it is not there.
        root: Folder or address of the data set.
        size_px: Height and width of what is kept; pixels.
        channels: C of its images.
        with_masks: Whether a mask is kept with each image.
        max_bytes: Of the kept images of all data sets.
        num_images: Of the data set.
        reading: What else decides about the pixels, such as the number of classes.
    """

    def __init__(
        self,
        *,
        folder: Path,
        root: Path | str,
        size_px: int,
        channels: int,
        with_masks: bool,
        max_bytes: int,
        num_images: int,
        reading: Mapping[str, Any],
    ) -> None:
        self.size_px, self.channels, self.num_images = size_px, channels, num_images
        self._settings = repr((_versions(), size_px, channels, with_masks, sorted(reading.items())))
        num_bytes = size_px * size_px * (channels + with_masks)
        place = root if isinstance(root, str) else str(root.resolve())
        name = hashlib.sha256(repr((place, num_bytes)).encode()).hexdigest()[:24]
        self._store = PixelStore(
            folder=folder,
            name=f"{name}-{size_px}",
            num_bytes=num_bytes,
            max_bytes=max_bytes,
            num_needed=num_images,
        )
        self._reads = self._writes = CAN_KEEP

    def notes(self) -> list[str]:
        """What the user should know before a training: that no, or not all, images are kept."""
        store = self._store
        if not CAN_KEEP:
            return [f"decoded images cannot be kept on this system: {_OFF}"]
        try:
            with store.alone():
                free = store.free_bytes() + store.num_bytes_used()
        except OSError as fault:
            self._reads = self._writes = False
            return [
                f"decoded images cannot be kept, {_OFF} ({fault}); set MEDVISION_CACHE_DIR to a"
                " folder that can be written, or data.decoded_gb=0"
            ]
        fits = max(0, min(free, store.max_bytes)) // store.bytes_each
        if fits >= self.num_images:
            return []
        where = f"into {store.max_bytes / GIGABYTE:.3g} GB"
        needed = 1.005 * self.num_images * store.bytes_each / GIGABYTE  # not less when rounded
        hint = f"all take data.decoded_gb={needed:.3g}"
        if free < store.max_bytes:
            where = f"on the disk of {store.folder}"
            hint = "free some space, or set MEDVISION_CACHE_DIR to another disk"
        return [
            f"only {fits} of {self.num_images} decoded images fit {where}, every epoch decodes the"
            f" others anew; {hint}"
        ]

    def pair(self, image_file: bytes, mask_file: bytes, decode: Callable[[], Pair]) -> Pair:
        """Image (S, S, C) and mask (S, S) of two files, decoded where they are not kept."""
        key = self._key(image_file, mask_file)
        found = self._read(key)
        if found is not None:
            end, size = self.size_px * self.size_px * self.channels, (self.size_px, self.size_px)
            return found[:end].reshape(*size, self.channels), found[end:].reshape(size)
        image, mask = resize_pair(*decode(), self.size_px)
        self._keep(key, image, mask)
        return image, mask

    def image(self, file: bytes, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Image (S, S, C) of a file, decoded where it is not kept."""
        key = self._key(file)
        found = self._read(key)
        if found is not None:
            return found.reshape(self.size_px, self.size_px, self.channels)
        image = resize_image(decode(), self.size_px)
        self._keep(key, image)
        return image

    def _key(self, *files: bytes) -> bytes:
        digest = hashlib.sha256(repr((self._settings, *map(len, files))).encode())
        for content in files:
            digest.update(content)
        return digest.digest()[:KEY_BYTES]

    def _read(self, key: bytes) -> NDArray[np.uint8] | None:
        if not self._reads:
            return None
        try:
            return self._store.read(key)
        except OSError as fault:
            self._reads = self._writes = False
            _log(f"decoded images cannot be read, {_OFF}: {fault}")
            return None

    def _keep(self, key: bytes, *parts: NDArray[np.uint8]) -> None:
        size = (self.size_px, self.size_px)
        if not self._writes or any(part.shape[:2] != size for part in parts):
            return
        try:
            pixels = np.concatenate([part.ravel() for part in parts])
            self._writes = self._store.keep(key, pixels)
        except OSError as fault:
            self._writes = False
            _log(f"no more decoded images can be kept, every epoch decodes the others: {fault}")


@dataclass(frozen=True, kw_only=True)
class CachedPairs:
    """A source whose images and masks are kept at the size of the network."""

    source: PairFiles
    cache: PixelCache

    @property
    def channels(self) -> int:
        return self.source.channels

    def read(self, sample: Sample) -> Pair:
        image = self.source.image_file(sample)
        try:
            mask = self.source.mask_file(sample)
        except MedvisionError:
            self.source.decode_image(sample, image)  # what is wrong with it is told first
            raise
        return self.cache.pair(image, mask, lambda: self.source.decode(sample, image, mask))


@dataclass(frozen=True, kw_only=True)
class CachedImages:
    """A source whose images are kept at the size of the network."""

    source: ImageFiles
    cache: PixelCache

    @property
    def channels(self) -> int:
        return self.source.channels

    def read(self, path: str) -> NDArray[np.uint8]:
        image = self.source.image_file(path)
        return self.cache.image(image, lambda: self.source.decode(path, image))


def _versions() -> tuple[Any, ...]:
    """What decodes and resizes; OpenCV rounds as the instructions of the processor do."""
    libraries = (PIL.__version__, features.version("jpg"), cv2.__version__, np.__version__)
    return (FORMAT, *libraries, platform.machine(), cv2.getCPUFeaturesLine())


def _log(text: str) -> None:
    """Tell it once, not for every loader process."""
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        logging.getLogger(__name__).warning(text)
