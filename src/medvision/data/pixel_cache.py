"""Cache decoded images at network resolution, so that files are decoded in only one epoch.

Images are cached before random augmentation. The key is the content of the files, which are still
read in every epoch, so that changed, damaged and missing files are detected.

A store has two files. ``NAME.pixels`` contains consecutive records of pixels, key and CRC-32 of the
pixels. ``NAME.index`` contains the keys in the same order and is only used for lookup. A record is
valid only if both its key and its CRC-32 match, so that incomplete data of a killed process, a full
disk or another program is never returned. The next writer repairs the store.

Files are read with `os.preadv` instead of memory mapping, because truncating a mapped file kills
the process that reads it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features
from torch.utils.data import get_worker_info

from medvision.data.loading.transforms import resize
from medvision.data.reading import Reading
from medvision.data.samples import Pixels, Sample
from medvision.data.sources import GIGABYTE, FileSource
from medvision.files import locked

try:
    import fcntl
except ImportError:  # Windows
    CAN_KEEP = False
else:
    CAN_KEEP = hasattr(fcntl, "flock") and hasattr(os, "preadv")
"""True if this system supports stores; do not create one otherwise."""

MIN_FREE_BYTES = 10**9
"""Disk space reserved for checkpoints, which unlike pixels cannot be recreated."""

WAIT_S = 10.0
"""Longest wait for other processes, each of which needs a millisecond unless suspended."""


KEY_BYTES = 16

TAIL_BYTES = KEY_BYTES + 4
"""Size of key and CRC-32, which follow the pixels of a record."""

PIXELS, INDEX = ".pixels", ".index"


class _Places:
    """Record number of each key, in 12 bytes where a dict needs about 140.

    Of a key only the first half is kept: a record states its whole key.
    """

    _MOST_RECENT = 1000

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)  # sorted
        self._numbers = np.empty(0, np.uint32)
        self._recent: dict[int, int] = {}  # merged when there are many

    def add(self, keys: bytes, first: int) -> None:
        """Add keys that follow each other; of two equal ones the later one counts.

        Args:
            keys: Whole keys, ``KEY_BYTES`` each.
            first: Record number of the first one.
        """
        new = np.frombuffer(keys, np.uint64)[:: KEY_BYTES // 8]
        numbers = np.arange(first, first + len(new), dtype=np.uint32)
        if len(self._recent) + len(new) <= self._MOST_RECENT:
            self._recent.update(zip(new.tolist(), numbers.tolist(), strict=True))
            return
        recent = np.array(list(self._recent), np.uint64)
        number = np.array(list(self._recent.values()), np.uint32)
        self._recent.clear()
        merged = np.concatenate([self._keys, recent, new])
        order = np.argsort(merged, kind="stable")
        self._keys = merged[order]
        self._numbers = np.concatenate([self._numbers, number, numbers])[order]

    def get(self, key: bytes) -> int | None:
        """Record number of a key; None if unknown."""
        half = np.frombuffer(key, np.uint64)[0]
        number = self._recent.get(int(half))
        if number is not None:
            return number
        at = int(np.searchsorted(self._keys, half, side="right")) - 1
        return int(self._numbers[at]) if at >= 0 and self._keys[at] == half else None


class PixelFiles:
    """Open files of a store, locked as in use by this process.

    Attributes:
        count: Number of keys read from the index.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        import fcntl

        self.process, self.num_bytes, self.stride = os.getpid(), num_bytes, num_bytes + TAIL_BYTES
        self.count = 0
        self._places = _Places()
        self.path = path.with_name(path.name + PIXELS)
        self._numbers: list[int] = []
        for suffix in (PIXELS, INDEX):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._numbers.append(os.open(path.with_name(path.name + suffix), flags, 0o600))
        self.pixels, self.index = self._numbers
        # a shared lock on the data file, which filelock does not support
        fcntl.flock(self.pixels, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(self.pixels)

    def __del__(self) -> None:
        for number in self._numbers:
            os.close(number)

    def are_there(self) -> bool:
        return os.fstat(self.pixels).st_nlink > 0

    def are_at_their_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.pixels), self.path.stat())
        except FileNotFoundError:
            return False

    def find(self, key: bytes) -> int | None:
        """Return the record number of a key; read the index again if others may have added it."""
        place = self._places.get(key)
        if place is None:
            self.look_again()
            place = self._places.get(key)
        return place

    def look_again(self) -> None:
        """Read new entries of the index; all entries if it was truncated."""
        count = os.fstat(self.index).st_size // KEY_BYTES
        if count < self.count:  # truncated by a repair
            self.forget()
        start = self.count * KEY_BYTES
        keys = os.pread(self.index, count * KEY_BYTES - start, start)
        found = len(keys) // KEY_BYTES
        if found:
            self._places.add(keys[: found * KEY_BYTES], self.count)
            self.count += found

    def forget(self) -> None:
        """Discard the known entries, so that the next lookup reads the whole index."""
        self._places, self.count = _Places(), 0

    def read(self, place: int, key: bytes) -> NDArray[np.uint8] | None:
        """Return the pixels of a record, or None if it is incomplete or has another key."""
        record = np.empty(self.stride, np.uint8)
        if os.preadv(self.pixels, [record.data], place * self.stride) != self.stride:
            return None
        pixels, tail = record[: self.num_bytes], record[self.num_bytes :].tobytes()
        return pixels if tail == _tail(key, pixels) else None

    def truncate(self) -> None:
        """Truncate an incomplete record left by an interrupted process."""
        num_pixels, num_keys = (os.fstat(number).st_size for number in self._numbers)
        count = min(num_pixels // self.stride, num_keys // KEY_BYTES)
        if num_pixels != count * self.stride:
            os.ftruncate(self.pixels, count * self.stride)
        if num_keys != count * KEY_BYTES:
            os.ftruncate(self.index, count * KEY_BYTES)
        self.look_again()

    def append(self, key: bytes, pixels: NDArray[np.uint8]) -> None:
        """Append a record, then its index key: without the key, the record is not found."""
        place = self.count
        self.write(place, key, pixels)
        _write(self.index, key, place * KEY_BYTES)
        self.look_again()

    def write(self, place: int, key: bytes, pixels: NDArray[np.uint8]) -> None:
        record = np.empty(self.stride, np.uint8)
        record[: self.num_bytes] = pixels
        record[self.num_bytes :] = np.frombuffer(_tail(key, pixels), np.uint8)
        _write(self.pixels, record.data, place * self.stride)


def _tail(key: bytes, pixels: NDArray[np.uint8]) -> bytes:
    return key + zlib.crc32(pixels.data).to_bytes(4, "little")


def _write(number: int, data: bytes | memoryview, start: int) -> None:
    """Write all data: a full disk accepts a part and fails at the next write."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(number, rest, start)
        rest, start = rest[written:], start + written


def remove_unused(path: Path) -> bool:
    """Remove a store unless a process uses it."""
    import fcntl

    try:
        number = os.open(path.with_name(path.name + PIXELS), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # index without pixels
        remove(path)
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(number)
    return True


def remove(path: Path) -> None:
    """Remove a store; processes that have it open continue to read until they notice."""
    for suffix in (PIXELS, INDEX):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class PixelStore:
    """Pixels by key, with a size limit shared by all stores of a folder.

    Every process opens the files itself, because locks and descriptors belong to the parent process
    after a fork.

    Args:
        folder: Folder of all stores, created if missing, accessible only to its owner.
        name: Name of this store.
        num_bytes: Size of the pixels of a record.
        max_bytes: Largest total size of all stores of the folder.
        num_needed: Number of records in use at a time.
    """

    def __init__(
        self, *, folder: Path, name: str, num_bytes: int, max_bytes: int, num_needed: int
    ) -> None:
        self.folder, self.name, self.num_bytes = folder, name, num_bytes
        self.max_bytes, self.num_needed = max_bytes, num_needed
        self._files: PixelFiles | None = None
        self._may_start_over = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}

    @property
    def bytes_each(self) -> int:
        """Size of a record on disk."""
        return self.num_bytes + TAIL_BYTES + KEY_BYTES

    def read(self, key: bytes) -> NDArray[np.uint8] | None:
        """Return pixels (num_bytes,), or None if they are missing or corrupted.

        Raises:
            OSError: If the files cannot be opened or read.
        """
        files = self._current()
        if files is None:
            with self.alone():
                files = self._open()
        place = files.find(key)
        if place is None:
            return None
        pixels = files.read(place, key)
        if pixels is None:
            files.forget()  # the index may have been repaired too
        return pixels

    def keep(self, key: bytes, pixels: NDArray[np.uint8]) -> bool:
        """Add pixels (num_bytes,) and return True if there was space; old stores may be removed.

        Raises:
            OSError: If the files cannot be written.
        """
        with self.alone():
            files = self._current()
            if files is None or not files.are_at_their_path():  # renamed by NFS on removal
                files = self._open()
            files.truncate()
            place = files.find(key)
            if place is None:
                if not self._make_room():
                    if not self._start_over(files):
                        return False
                    files = self._open()
                    if not self._make_room():
                        return False
                files.append(key, pixels)
            elif files.read(place, key) is None:
                files.write(place, key, pixels)
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder against changes by other processes.

        Raises:
            OSError: If the folder cannot be written, or others hold the lock for ``WAIT_S``.
        """
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        until = time.monotonic() + WAIT_S
        while True:
            with locked(self.folder / "lock", wait=False) as is_ours:
                if is_ours:
                    yield
                    return
            if time.monotonic() > until:
                raise TimeoutError(f"another process has held {self.folder} for {WAIT_S:g} s")
            time.sleep(0.001)

    def free_bytes(self) -> int:
        """Return the number of bytes that may be written to the disk.

        Raises:
            OSError: If the folder does not exist.
        """
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize - MIN_FREE_BYTES

    def num_bytes_used(self) -> int:
        """Return the total size of all stores of the folder."""
        return sum(num_bytes for _, num_bytes in self._stores().values())

    def _current(self) -> PixelFiles | None:
        """Return the files if this process has opened them and they still exist."""
        files = self._files
        if files is not None and files.process == os.getpid() and files.are_there():
            return files
        self._files = None
        return None

    def _open(self) -> PixelFiles:
        self._files = PixelFiles(self.folder / self.name, self.num_bytes)
        return self._files

    def _make_room(self) -> bool:
        """Remove unused stores, the least recently used first, to make space for one record."""
        stores = self._stores()
        more = self.bytes_each
        missing = sum(num_bytes for _, num_bytes in stores.values()) + more - self.max_bytes
        missing = max(missing, more - self.free_bytes())
        others = sorted((used, num_bytes, n) for n, (used, num_bytes) in stores.items())
        for _, num_bytes, name in others:
            if missing <= 0:
                break
            if name != self.name and remove_unused(self.folder / name):
                missing -= num_bytes
        return missing <= 0

    def _start_over(self, files: PixelFiles) -> bool:
        """Remove a full store with obsolete records; only once, because it may be shared."""
        if not self._may_start_over or files.count < self.num_needed:
            return False
        self._may_start_over = False
        remove(self.folder / self.name)
        return True

    def _stores(self) -> dict[str, tuple[int, int]]:
        """Return the time of last use and the size of each store by name."""
        found: dict[str, tuple[int, int]] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                name, suffix = os.path.splitext(entry.name)  # noqa: PTH122  faster, called at every write
                if suffix in (PIXELS, INDEX):
                    state = entry.stat()
                    used, num_bytes = found.get(name, (0, 0))
                    used = max(used, state.st_mtime_ns)
                    found[name] = (used, num_bytes + state.st_size)
        return found


FORMAT = 2
"""Version of decoding and resizing; incrementing it invalidates cached images."""

_OFF = "every epoch decodes the images again"


class PixelCache:
    """Disk cache of the decoded and resized images of a data set.

    A full or read-only disk does not stop a training: images that cannot be cached are decoded each
    time. This is reported by ``notes`` before a training and by the log of the first loader process
    during it.

    Args:
        folder: Cache folder of all data sets, created if missing.
        root: Folder or address of the data set.
        size_px: Height and width of cached images; pixels.
        channels: Number of channels C of the images.
        max_bytes: Largest total size of the cached images of all data sets.
        num_images: Number of images of the data set.
        reading: Reading options; masks, if any, are cached with the images.
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
        """Remarks before a training if no images, or not all, are cached."""
        store = self._store
        if not CAN_KEEP:
            return [f"decoded images cannot be cached on this system: {_OFF}"]
        try:
            with store.alone():
                free = store.free_bytes() + store.num_bytes_used()
        except OSError as fault:
            self._reads = self._writes = False
            return [
                f"decoded images cannot be cached, {_OFF} ({fault}); set MEDVISION_CACHE_DIR to a"
                " writable folder, or data.decoded_gb=0"
            ]
        fits = max(0, min(free, store.max_bytes)) // store.bytes_each
        if fits >= self.num_images:
            return []
        where = f"into {store.max_bytes / GIGABYTE:.3g} GB"
        needed = 1.005 * self.num_images * store.bytes_each / GIGABYTE  # rounds up
        hint = f"data.decoded_gb={needed:.3g} fits all"
        if free < store.max_bytes:
            where = f"on the disk of {store.folder}"
            hint = "free some space, or set MEDVISION_CACHE_DIR to another disk"
        return [
            f"only {fits} of {self.num_images} decoded images fit {where}, every epoch decodes the"
            f" others again; {hint}"
        ]

    def read(self, source: FileSource, sample: Sample) -> Pixels:
        """Return image (S, S, C) and mask (S, S) of a sample, decoding them if not cached."""
        files = source.files(sample)
        key = self._key(*files)
        found = self._read(key)
        if found is not None:
            end, size = self.size_px * self.size_px * self.channels, (self.size_px, self.size_px)
            mask = found[end:].reshape(size) if self.with_masks else None
            return found[:end].reshape(*size, self.channels), mask
        decoded = source.decode(sample, files, for_px=self.size_px)
        image, mask = resize(*decoded, self.size_px)
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
            _log(f"no more decoded images can be cached, every epoch decodes the others: {fault}")


def _versions() -> tuple[Any, ...]:
    """Return all that affects decoded pixels: library versions and CPU (rounding in OpenCV)."""
    libraries = (PIL.__version__, features.version("jpg"), cv2.__version__, np.__version__)
    return (FORMAT, *libraries, platform.machine(), cv2.getCPUFeaturesLine())


def _log(text: str) -> None:
    """Log a message once instead of in every loader process."""
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        logging.getLogger(__name__).warning(text)
