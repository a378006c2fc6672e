"""Sources of images: phantoms, a folder of files, or shards.

Each source lists its samples, checks their files and reads a sample, with its mask if the data set
has masks. No other module depends on the kind of source.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from operator import eq
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.console import counted
from medvision.data.discovery.class_folders import order_classes
from medvision.data.discovery.folders import Scan, missing_files
from medvision.data.discovery.index import (
    Index,
    fill_targets,
    index_listed,
    keep_splits,
)
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.phantoms.brain import BRAIN_CLASSES, PHANTOM_BRAIN_VERSION, draw_brain
from medvision.data.phantoms.brushes import phantom_label
from medvision.data.phantoms.chest import CHEST_CLASSES, PHANTOM_CHEST_VERSION, draw_chest
from medvision.data.phantoms.polyps import PHANTOM_VERSION, draw_polyp_scene
from medvision.data.readers.annotations import container, read_content
from medvision.data.readers.decode import decode, unreadable_named
from medvision.data.readers.images import image_of
from medvision.data.readers.targets import decode_target
from medvision.data.reading import Reading
from medvision.data.samples import JOIN, Pixels, Sample, SampleTable, count_names, files_in
from medvision.data.shards.cache import ShardCache
from medvision.data.shards.location import holds_shards, read_small
from medvision.data.shards.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    damaged,
    read_manifest,
)
from medvision.data.shards.reader import LocalFolder, Opener, ShardFiles, read_part
from medvision.data.shards.table import DAMAGE, ShardTable, read_columns
from medvision.data.splits.groups import group_by_pattern
from medvision.data.validation import properties_cache
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.validate import (
    CheckResult,
    OnError,
    check_files,
    compare_sizes,
    fingerprint,
)
from medvision.errors import MedvisionError
from medvision.files import open_regular, own_folder
from medvision.live import phase
from medvision.types import IGNORE_INDEX

GIGABYTE = 10**9


class Source(ABC):
    """Origin of the samples of a data set.

    Args:
        channels: Number of channels C of the images.
        reading: Reading options; they define if there are masks.

    Attributes:
        fingerprint: Fingerprint of the data set if known without a check, otherwise empty.
    """

    fingerprint = ""

    def __init__(self, *, channels: int, reading: Reading) -> None:
        self.channels, self.reading = channels, reading

    @abstractmethod
    def index(
        self,
        *,
        splits: Path | None = None,
        group_pattern: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Index:
        """List the samples with their given splits and groups.

        Args:
            splits: Path of an earlier run's csv whose splits are kept.
            group_pattern: Regular expression whose capture group yields the group of a path.
            class_names: All classes in index order; None sorts them alphabetically.

        Raises:
            MedvisionError: If there are no samples, or the csv, the pattern or the classes do not
                match.
        """

    @abstractmethod
    def check(self, samples: SampleTable, *, on_error: OnError) -> CheckResult:
        """Check the files of samples, or return the stored result of an earlier check.

        Raises:
            MedvisionError: If a sample cannot be used and ``on_error`` is ``fail``, or no sample
                can be used.
        """

    @abstractmethod
    def read(self, sample: Sample) -> Pixels:
        """Read an image, and its mask if it has one, at their original size.

        Raises:
            MedvisionError: If a file cannot be read.
        """

    def read_for(self, sample: Sample, size_px: int) -> Pixels:  # noqa: ARG002  files use it
        """Read an image to be resized to ``size_px`` pixels a side, and its mask.

        The image may have a reduced size if ``reading.reduced`` is set; the mask never has.
        """
        return self.read(sample)

    def missing(self, samples: SampleTable) -> list[str]:  # noqa: ARG002  phantoms are never missing
        """Return the names of missing images and masks."""
        return []

    def shards_of(self, samples: SampleTable) -> NDArray[np.integer] | None:  # noqa: ARG002
        """Return the shard number of each sample if few shards are read at a time, else None."""
        return None


def open_source(
    place: Path | str,
    *,
    task: str,
    channels: int,
    reading: Reading,
    listing: Callable[..., Index],
    cache_gb: float,
    window: int | None,
) -> FileSource:
    """Open a folder of files, or shards.

    Args:
        place: Folder or address.
        task: Expected task of the samples.
        channels: Number of channels C of the images.
        reading: Reading options.
        listing: Function that lists the samples of a folder.
        cache_gb: Maximum size of the local copies of all remote shards; gigabytes.
        window: Number of remote shards that are mixed; None mixes all.

    Raises:
        MedvisionError: If shards are damaged, cannot be fetched, are for another task, or need a
            larger cache.
    """
    if isinstance(place, Path) and not holds_shards(place):
        return FolderSource(place, listing=listing, channels=channels, reading=reading)
    opener: Opener
    if isinstance(place, Path):
        where, opener = place / MANIFEST, LocalFolder(folder=place)
        with unreadable_named(where), open_regular(where) as stream:
            manifest = read_manifest(stream.read(MAX_MANIFEST_BYTES + 1), str(where))
        window = None
    else:
        manifest = read_manifest(read_small(place), f"{place}/{MANIFEST}")
        cache_bytes = round(cache_gb * GIGABYTE)
        _check_cache(manifest, cache_bytes, window)
        opener = ShardCache(
            address=place, folder=own_folder("cache") / "shards", max_bytes=cache_bytes
        )
    if manifest.task != task:
        raise MedvisionError(
            f"expected shards for {task}, got shards for {manifest.task}",
            where=str(place),
            hint=f"choose a {manifest.task} experiment, or another data.root",
        )
    if manifest.has_masks != reading.has_masks:
        raise damaged("masks are missing or unexpected", str(place))
    table = _table(manifest, opener, str(place))
    files = ShardFiles(place=str(place), opener=opener, shards=manifest.shards, table=table)
    return ShardSource(files, manifest, window=window, channels=channels, reading=reading)


class FileSource(Source):
    """Source that reads images and masks from file content."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Return the name of a file in messages."""

    @abstractmethod
    def image_file(self, sample: Sample) -> bytes:
        """Return the content of the image file."""

    @abstractmethod
    def mask_files(self, sample: Sample) -> tuple[bytes, ...]:
        """Return the content of each mask file, in the order of `files_in`."""

    def read(self, sample: Sample) -> Pixels:
        return self.decode(sample, self.files(sample))

    def read_for(self, sample: Sample, size_px: int) -> Pixels:
        return self.decode(sample, self.files(sample), for_px=size_px)

    def files(self, sample: Sample) -> tuple[bytes, ...]:
        """Return the content of the image file, and of the mask files if there are any."""
        image = self.image_file(sample)
        if not self.reading.has_masks:
            return (image,)
        try:
            return image, *self.mask_files(sample)
        except MedvisionError:
            decode(image, where=self.where(sample.path))  # report faults of the image first
            raise

    def decode(
        self, sample: Sample, files: Sequence[bytes], *, for_px: int | None = None
    ) -> Pixels:
        """Decode the result of `files`, as `read` does."""
        picture = decode(
            files[0],
            where=self.where(sample.path),
            for_px=for_px if self.reading.reduced else None,
        )
        image = image_of(picture, channels=self.channels, value_range=self.reading.value_range)
        if not self.reading.has_masks:
            return image, None
        mask = self.decode_masks(sample, files[1:])
        where = self.where(files_in(sample.target)[0])
        size = picture.whole_size or image.shape[:2]
        compare_sizes(sample, size, mask.shape, where)  # headers may be unread
        return image, mask

    def decode_masks(self, sample: Sample, contents: Sequence[bytes]) -> NDArray[np.uint8]:
        """Decode the mask files of a sample to class indices (H, W)."""
        return decode_target(contents, sample.target, self.reading, where=self.where)[0]


class FolderSource(FileSource):
    """Files under a root folder.

    Args:
        root: The folder.
        listing: Function that lists its samples, such as `index_classification`. Called with the
            root and the arguments of `Source.index`, with ``class_names`` only if known. Must be
            picklable, because it is sent to the loader processes.
        **common: As for `Source`.
    """

    def __init__(
        self, root: Path, *, listing: Callable[..., Index] = index_listed, **common: Any
    ) -> None:
        super().__init__(**common)
        self.root, self.listing = root, listing

    def index(self, *, class_names: Sequence[str] | None = None, **given: Any) -> Index:
        if class_names is not None:
            given["class_names"] = class_names
        return self.listing(self.root, **given)

    def check(self, samples: SampleTable, *, on_error: OnError) -> CheckResult:
        with phase("checking files") as advance:
            return check_files(self.root, samples, self.reading, on_error=on_error, advance=advance)

    def missing(self, samples: SampleTable) -> list[str]:
        targets = map(files_in, samples.targets if self.reading.has_masks else ())
        masks = dict.fromkeys(map(container, chain.from_iterable(targets)))
        images = dict.fromkeys(map(container, samples.paths))
        return missing_files(self.root, [*images, *masks])

    def where(self, name: str) -> str:
        return str(self.root / name)

    def image_file(self, sample: Sample) -> bytes:
        return read_content(self.root, sample.path)

    def mask_files(self, sample: Sample) -> tuple[bytes, ...]:
        return tuple(read_content(self.root, name) for name in files_in(sample.target))


class ShardSource(FileSource):
    """Files in shards; samples, groups, splits, properties and fingerprint are those of a folder.

    Args:
        stored: Files in the shards.
        manifest: Content of shards.json.
        window: Number of shards read at a time; None if they are in a folder, or all are mixed.
        **common: As for `Source`.
    """

    def __init__(
        self, stored: ShardFiles, manifest: Manifest, *, window: int | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.stored, self.manifest, self.window = stored, manifest, window

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_properties", None)  # kilobytes per image, not used by loader processes
        return state

    def index(
        self,
        *,
        splits: Path | None = None,
        group_pattern: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Index:
        samples, notes = self.stored.table.samples(), list(self.manifest.notes)
        if splits is not None:
            samples, more = self._keep_splits(splits.expanduser(), samples)
            notes += more
        if group_pattern is not None:
            samples, more = group_by_pattern(samples, group_pattern)
            notes += more
        samples = samples.by_path()
        if self.reading.has_masks:
            return Index(samples=samples, notes=notes)
        names = order_classes(Path(self.stored.place), samples, class_names)
        return Index(samples=samples, notes=notes, class_names=names)

    def check(self, samples: SampleTable, *, on_error: OnError) -> CheckResult:  # noqa: ARG002
        """Return the result of the check that was stored when the shards were created.

        Samples that are not in the shards, or have another mask there, are left out.

        Raises:
            MedvisionError: If files were checked with other reading options.
        """
        table = self.stored.table
        rows = table.rows_of(samples.paths)
        there = self._are_there(samples, rows)
        given, rows = samples.select(there), rows[there]
        contents = table.content.select(rows)
        if self.manifest.facts is not None:
            self._refuse_other_reading()
        return CheckResult(
            samples=given,
            properties=None if self._properties is None else self._properties.take(rows),
            fingerprint=fingerprint(given, contents),
            contents=contents,
        )

    def missing(self, samples: SampleTable) -> list[str]:
        rows = self.stored.table.rows_of(samples.paths)
        lost = list(samples.paths.select(rows < 0))
        if self.reading.has_masks:
            lost += samples.targets.select(~self._are_there(samples, rows))
        return lost

    def shards_of(self, samples: SampleTable) -> NDArray[np.integer] | None:
        if self.window is None or len(self.manifest.shards) <= self.window:
            return None
        table = self.stored.table
        return table.shard[table.rows_of(samples.paths)]

    def where(self, name: str) -> str:
        return self.stored.where(name)

    def image_file(self, sample: Sample) -> bytes:
        return self.stored.image(sample.path)

    def mask_files(self, sample: Sample) -> tuple[bytes, ...]:
        return (self.stored.mask(sample),)

    def decode_masks(self, sample: Sample, contents: Sequence[bytes]) -> NDArray[np.uint8]:
        if JOIN not in sample.target:
            return super().decode_masks(sample, contents)
        # combined when the shards were created: one picture of class indices
        where = self.where(sample.target)
        num_classes = self.reading.num_classes or 2
        stored = Reading(num_classes=max(num_classes, 3), ignore_index=IGNORE_INDEX)
        return decode_target(contents, "", stored, where=lambda _: where)[0]

    def _are_there(self, samples: SampleTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Compare each sample, and its mask if there are masks, with its row; True if equal."""
        there = rows >= 0
        if self.reading.has_masks:
            known = np.flatnonzero(there)
            targets = self.stored.table.target.select(rows[known])
            there[known] = list(map(eq, samples.targets.select(known), targets))
        return there

    def _keep_splits(self, splits: Path, samples: SampleTable) -> tuple[SampleTable, list[str]]:
        """Keep the splits of an earlier run for the samples of the table."""
        rows = fill_targets(read_splits(splits), samples)
        missing = self.missing(rows)
        if missing:
            raise MedvisionError(
                f"cannot find {counted(len(missing), 'listed file')} in the shards of"
                f" {self.stored.place}: {count_names(missing)}",
                where=str(splits),
                hint="check data.root, or remove their lines",
            )
        return keep_splits(splits, rows, Scan(), samples, has_csv=True)

    def _refuse_other_reading(self) -> None:
        for key, option in _OPTIONS.items():
            then, now = getattr(self.manifest.reading, key), getattr(self.reading, key)
            if then != now:
                raise MedvisionError(
                    f"the shards were created with {key} {_words(then)}, got {_words(now)}",
                    where=f"data.{key}",
                    hint=f"create them again with medvision data shard {option}, or change the key",
                )

    @cached_property
    def _properties(self) -> ImageProperties | None:
        part, place = self.manifest.facts, self.stored.place
        if part is None:
            return None
        if self.manifest.facts_format not in properties_cache.READABLE:
            raise MedvisionError(
                "the stored file properties come from another version",
                where=place,
                hint="create the shards again with medvision data shard",
            )
        try:
            columns = read_columns(io.BytesIO(read_part(self.stored.opener, part, place)))
            return ImageProperties.from_columns(
                columns, num_rows=len(self.stored.table), with_masks=self.reading.has_masks
            )
        except DAMAGE as fault:
            raise damaged(f"{part.name}: {fault}", place) from fault


_OPTIONS = {"num_classes": "--num-classes", "color_map": "--color", "value_range": "--value-range"}


def _words(value: object) -> str:
    return "null" if value is None else str(value)


def _table(manifest: Manifest, opener: Opener, place: str) -> ShardTable:
    try:
        content = read_part(opener, manifest.table, place)
        table = ShardTable.from_columns(read_columns(io.BytesIO(content)))
        sizes = [part.num_bytes for part in manifest.shards]
        table.check(sizes, with_masks=manifest.has_masks)
        if len(table) != manifest.num_images:
            raise ValueError(f"expected {manifest.num_images} images, found {len(table)}")
    except DAMAGE as fault:
        raise damaged(f"{manifest.table.name}: {fault}", place) from fault
    return table


def _check_cache(manifest: Manifest, cache_bytes: int, window: int | None) -> None:
    """Reject a cache too small to avoid fetching the same shards repeatedly."""
    together = min(window or len(manifest.shards), len(manifest.shards))
    largest = sorted((part.num_bytes for part in manifest.shards), reverse=True)
    needed = sum(largest[:together])
    if needed > cache_bytes:
        raise MedvisionError(
            f"mixing {together} shards takes {needed / GIGABYTE:.3g} GB,"
            f" the cache has {cache_bytes / GIGABYTE:.3g} GB",
            where="data.cache_gb",
            hint="raise it, or lower data.shuffle_shards",
        )


class PhantomSource(Source):
    """Synthetic images; the path of a sample ends in the image number.

    Args:
        name: Name of the data set in its fingerprint.
        version: Version of the drawing code.
        size_px: Height and width of the images; pixels.
        seed: Seed of the data set.
        num_images: Number of images.
        **common: As for `Source`.
    """

    def __init__(
        self, *, name: str, version: int, size_px: int, seed: int, num_images: int, **common: Any
    ) -> None:
        super().__init__(**common)
        self.size_px, self.seed, self.num_images = size_px, seed, num_images
        identity = f"{name} {version} {seed} {size_px} {num_images}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def check(self, samples: SampleTable, *, on_error: OnError) -> CheckResult:  # noqa: ARG002
        return CheckResult(samples=samples, fingerprint=self.fingerprint)

    def number_of(self, sample: Sample) -> int:
        """Return the image number of a sample."""
        return int(PurePosixPath(sample.path).stem.rsplit("_", 1)[1])


class PolypPhantoms(PhantomSource):
    """Colonoscopy-like scenes with the masks of their polyps.

    Args:
        **common: As for `PhantomSource`, without name, version and reading.
    """

    def __init__(self, **common: Any) -> None:
        common |= {"name": "phantom", "version": PHANTOM_VERSION}
        super().__init__(reading=Reading(num_classes=2), **common)

    def index(self, **_: Any) -> Index:
        names = [f"phantom_{index:06d}.png" for index in range(self.num_images)]
        samples = (Sample(path=f"images/{name}", target=f"masks/{name}") for name in names)
        return Index(samples=SampleTable.of(samples), notes=[])

    def read(self, sample: Sample) -> Pixels:
        image, mask = draw_polyp_scene(self.number_of(sample), size_px=self.size_px, seed=self.seed)
        if self.channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint8, copy=False)
        return image, mask


_CLASS_PHANTOMS = {
    "chest": (draw_chest, CHEST_CLASSES, PHANTOM_CHEST_VERSION),
    "brain": (draw_brain, BRAIN_CLASSES, PHANTOM_BRAIN_VERSION),
}
"""Drawing function (grey image of a class), class names and version of the drawing code."""


class ClassPhantoms(PhantomSource):
    """Synthetic classification images, split per class so that each split has each class.

    Args:
        kind: ``chest`` or ``brain``.
        class_names: Order of the classes; None uses the order of ``kind``.
        val_fraction: Share of the validation split.
        test_fraction: Share of the test split.
        **common: As for `PhantomSource`, without name, version and reading.
    """

    def __init__(
        self,
        *,
        kind: str,
        class_names: Sequence[str] | None,
        val_fraction: float,
        test_fraction: float,
        **common: Any,
    ) -> None:
        self.draw, self.drawn_names, version = _CLASS_PHANTOMS[kind]
        super().__init__(name=f"{kind} phantom", version=version, reading=Reading(), **common)
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.class_names = list(class_names or self.drawn_names)
        if sorted(self.class_names) != sorted(self.drawn_names):
            raise MedvisionError(
                f"the phantoms have the classes {', '.join(self.drawn_names)},"
                f" got {', '.join(self.class_names)}",
                where="data.class_names",
                hint="set data.root",
            )

    def index(self, **_: Any) -> Index:
        names, count = self.drawn_names, self.num_images
        targets = [names[phantom_label(k, len(names), self.seed)] for k in range(count)]
        sizes, seen, samples = Counter(targets), Counter[str](), []
        for number, target in enumerate(targets):
            test, val = (
                max(1, round(fraction * sizes[target])) if fraction else 0
                for fraction in (self.test_fraction, self.val_fraction)
            )
            place = seen[target]
            seen[target] += 1
            split = "test" if place < test else "val" if place < test + val else "train"
            path = f"{target}/phantom_{number:06d}.png"
            samples.append(Sample(path=path, target=target, split=split))
        return Index(samples=SampleTable.of(samples), notes=[], class_names=self.class_names)

    def read(self, sample: Sample) -> Pixels:
        label = self.drawn_names.index(PurePosixPath(sample.path).parent.name)
        image = self.draw(self.number_of(sample), label, size_px=self.size_px, seed=self.seed)
        return np.repeat(image[..., None], self.channels, axis=2), None
