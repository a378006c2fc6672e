"""Keep decoded images at the size of the network, so that files are decoded in one epoch only.

What is kept is what random augmentation begins with. It is found by the content of the files, which
are still read in every epoch: no file that has changed, is damaged or is gone goes unnoticed.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features
from torch.utils.data import get_worker_info

from medvision.data.loading.transforms import resize
from medvision.data.pixel_cache.store import CAN_KEEP, KEY_BYTES, PixelStore
from medvision.data.reading import Reading
from medvision.data.samples import Pixels, Sample
from medvision.data.sources import FileSource

FORMAT = 1
"""Grows when this package decodes or resizes otherwise: what was kept is then found by nobody."""

GIGABYTE = 10**9

_OFF = "every epoch decodes the images anew"


class PixelCache:
    """Decoded and resized images of one data set, on the disk.

    A disk that is full or cannot be written ends no training: what cannot be kept is decoded each
    time. ``notes`` says so before a training, the log of the first loader process in the middle.

    Args:
        folder: Of the kept images of all data sets; made where it is not there.
        root: Folder or address of the data set.
        size_px: Height and width of what is kept; pixels.
        channels: C of its images.
        max_bytes: Of the kept images of all data sets.
        num_images: Of the data set.
        reading: How its files are read; a mask is kept with each image if there are masks.
    """

    def __init__(
        self,
        *,
        folder: Path,
        root: Path | str,
        size_px: int,
        channels: int,
        max_bytes: int,
        num_images: int,
        reading: Reading,
    ) -> None:
        self.size_px, self.channels, self.num_images = size_px, channels, num_images
        self.with_masks = reading.has_masks
        self._settings = repr((_versions(), size_px, channels, reading))
        num_bytes = size_px * size_px * (channels + self.with_masks)
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

    def read(self, source: FileSource, sample: Sample) -> Pixels:
        """Image (S, S, C) and mask (S, S) of a sample, decoded where they are not kept."""
        files = source.files(sample)
        key = self._key(*files)
        found = self._read(key)
        if found is not None:
            end, size = self.size_px * self.size_px * self.channels, (self.size_px, self.size_px)
            mask = found[end:].reshape(size) if self.with_masks else None
            return found[:end].reshape(*size, self.channels), mask
        image, mask = resize(*source.decode(sample, files), self.size_px)
        self._keep(key, image, *(() if mask is None else (mask,)))
        return image, mask

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


def _versions() -> tuple[Any, ...]:
    """What decodes and resizes; OpenCV rounds as the instructions of the processor do."""
    libraries = (PIL.__version__, features.version("jpg"), cv2.__version__, np.__version__)
    return (FORMAT, *libraries, platform.machine(), cv2.getCPUFeaturesLine())


def _log(text: str) -> None:
    """Tell it once, not for every loader process."""
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        logging.getLogger(__name__).warning(text)
