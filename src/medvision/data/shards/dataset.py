"""A set of shards in the place of a folder: the same samples, groups, split, facts, fingerprint."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import eq
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvision.data.discovery.folders import Scan, missing_files
from medvision.data.discovery.index import Index, _kept
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.samples import Sample, SampleTable, Texts, count_names
from medvision.data.shards.cache import ShardCache
from medvision.data.shards.location import holds_shards, read_small
from medvision.data.shards.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    Reading,
    damaged,
    read_manifest,
)
from medvision.data.shards.reader import LocalFolder, Opener, ShardFiles, read_part
from medvision.data.shards.table import DAMAGE, ShardTable, properties_from_columns, read_columns
from medvision.data.splits.groups import group_by_pattern
from medvision.data.validation import properties_cache as facts_cache
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.properties_cache import cache_folder
from medvision.data.validation.validate import CheckResult, fingerprint
from medvision.errors import MedvisionError

GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class ShardedSet:
    """A set of shards, opened.

    Attributes:
        place: Its folder or address.
        manifest: What shards.json says.
        files: What the shards hold.
        opener: Opens its files.
    """

    place: Path | str
    manifest: Manifest
    files: ShardFiles
    opener: Opener

    @property
    def table(self) -> ShardTable:
        """Where each image lies."""
        return self.files.table

    @property
    def is_remote(self) -> bool:
        """Whether shards are fetched before they are read."""
        return isinstance(self.place, str)

    def shards_of(self, samples: Sequence[Sample]) -> NDArray[np.int32]:
        """Number of the shard of each sample, which must be in the set."""
        return self.table.shard[self.table.rows_of(SampleTable.of(samples).paths)]

    def missing(self, samples: Sequence[Sample]) -> list[str]:
        """Names of the images and masks that are not in the set."""
        table = SampleTable.of(samples)
        rows = self.table.rows_of(table.paths)
        lost = list(table.paths.select(rows < 0))
        if self.manifest.task == "segmentation":
            lost += table.targets.select(~self._same_masks(table, rows))
        return lost

    def _same_masks(self, samples: SampleTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each sample is in its row and has the mask of it."""
        known = np.flatnonzero(rows >= 0)
        targets = self.table.target.select(rows[known])
        same = np.zeros(len(rows), bool)
        same[known] = list(map(eq, samples.targets.select(known), targets))
        return same

    def index(self, *, splits: Path | None, group_pattern: str | None) -> Index:
        """List the samples as `index_segmentation` and `index_classification` do of a folder.

        Args:
            splits: A csv of an earlier run, whose splits are kept.
            group_pattern: What names the group in a path.

        Raises:
            MedvisionError: If the csv or the pattern does not fit the samples.
        """
        samples, notes = self.table.samples(), list(self.manifest.notes)
        if splits is not None:
            samples, more = self._kept(splits.expanduser(), samples)
            notes += more
        if group_pattern is not None:
            samples, more = group_by_pattern(samples, group_pattern)
            notes += more
        return Index(samples=samples.by_path(), notes=notes)

    def _kept(self, splits: Path, samples: SampleTable) -> tuple[SampleTable, list[str]]:
        """Lay the splits of an earlier run over the samples of the table."""
        rows = SampleTable.of(read_splits(splits))
        if rows.targets.equal("").any():
            own = dict(zip(samples.paths, samples.targets, strict=True))
            pairs = zip(rows.paths, rows.targets, strict=True)
            rows = rows.with_column(targets=[target or own.get(path, "") for path, target in pairs])
        missing = self.missing(rows)
        if missing:
            raise MedvisionError(
                f"{len(missing)} listed files are not in the shards of {self.place}:"
                f" {count_names(missing)}",
                where=str(splits),
                hint="check data.root, or remove their lines",
            )
        return _kept(splits, rows, Scan(), samples, has_csv=True)

    def check(self, samples: Sequence[Sample], reading: Reading) -> CheckResult:
        """What the check of the files found when the shards were made.

        Args:
            samples: Of the table; others, and those with another mask, are left out.
            reading: How files are read now.

        Raises:
            MedvisionError: If files were checked as they are not read now.
        """
        given = SampleTable.of(samples)
        rows = self.table.rows_of(given.paths)
        there = rows >= 0
        if self.manifest.task == "segmentation":
            there &= self._same_masks(given, rows)
        given, rows = given.select(there), rows[there]
        columns = (given.paths, given.targets, self.table.content.select(rows))
        lines = Texts.of(f"{path}\0{name}{rest}" for path, name, rest in zip(*columns, strict=True))
        if self.manifest.facts is not None:
            self._same(reading)
        facts = self._facts
        return CheckResult(
            samples=given,
            facts=None if facts is None else facts.take(rows),
            fingerprint=fingerprint(lines),
            lines=lines,
        )

    def _same(self, reading: Reading) -> None:
        made = self.manifest.reading
        for key, option in _OPTIONS.items():
            then, now = getattr(made, key), getattr(reading, key)
            if then != now:
                raise MedvisionError(
                    f"the shards were checked with {key} {_words(then)}, here it is {_words(now)}",
                    where=f"data.{key}",
                    hint=f"make them anew with medvision data shard {option}, or change the key",
                )

    @cached_property
    def _facts(self) -> ImageProperties | None:
        part = self.manifest.facts
        if part is None:
            return None
        place = str(self.place)
        if self.manifest.facts_format != facts_cache.FORMAT:
            raise MedvisionError(
                "what the files told was kept by another version",
                where=place,
                hint="make the shards anew with medvision data shard",
            )
        try:
            columns = read_columns(io.BytesIO(read_part(self.opener, part, place)))
            return properties_from_columns(
                columns,
                num_rows=len(self.table),
                with_masks=self.manifest.task == "segmentation",
            )
        except DAMAGE as fault:
            raise damaged(f"{part.name}: {fault}", place) from fault


def absent_files(root: Path | str | None, samples: Sequence[Sample], *, masks: bool) -> list[str]:
    """Names of the images and masks that a folder of plain files lacks; phantoms lack none."""
    if root is None:
        return []
    table = SampleTable.of(samples)
    return missing_files(Path(root), [*table.paths, *(table.targets if masks else ())])


def open_shards(
    place: Path | str | None, *, task: str, cache_gb: float, window: int | None
) -> ShardedSet | None:
    """Open a set of shards; None where there is none, but a folder of plain files or nothing.

    Args:
        place: Folder or address.
        task: What the samples are wanted for.
        cache_gb: Of the local copies of all shards that come from addresses; gigabytes.
        window: Shards of an address that are mixed with each other, or None: all.

    Raises:
        MedvisionError: If the set is damaged, cannot be fetched, is for another task, or needs a
            larger cache.
    """
    cache_bytes = round(cache_gb * GIGABYTE)
    if place is None or (isinstance(place, Path) and not holds_shards(place)):
        return None
    opener: Opener
    if isinstance(place, Path):
        where, opener = place / MANIFEST, LocalFolder(folder=place)
        manifest = read_manifest(_start_of(where), str(where))
    else:
        manifest = read_manifest(read_small(place), f"{place}/{MANIFEST}")
        _check_cache(manifest, cache_bytes, window)
        opener = ShardCache(address=place, folder=cache_folder() / "shards", max_bytes=cache_bytes)
    if manifest.task != task:
        raise MedvisionError(
            f"these are shards of a {manifest.task} set",
            where=str(place),
            hint=f"choose an experiment of {manifest.task}, or another data.root",
        )
    table = _table(manifest, opener, str(place))
    files = ShardFiles(place=str(place), opener=opener, shards=manifest.shards, table=table)
    return ShardedSet(place=place, manifest=manifest, files=files, opener=opener)


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as fault:
        raise MedvisionError(
            f"cannot read the file: {fault.strerror or fault}",
            where=str(path),
            hint="check data.root",
        ) from fault


def _table(manifest: Manifest, opener: Opener, place: str) -> ShardTable:
    try:
        content = read_part(opener, manifest.table, place)
        table = ShardTable.from_columns(read_columns(io.BytesIO(content)))
        sizes = [part.num_bytes for part in manifest.shards]
        table.check(sizes, with_masks=manifest.task == "segmentation")
        if len(table) != manifest.num_images:
            raise ValueError(f"{len(table)} images, shards.json says {manifest.num_images}")
    except DAMAGE as fault:
        raise damaged(f"{manifest.table.name}: {fault}", place) from fault
    return table


def _check_cache(manifest: Manifest, cache_bytes: int, window: int | None) -> None:
    """Refuse a cache that would fetch the same shards again and again."""
    together = min(window or len(manifest.shards), len(manifest.shards))
    largest = sorted((part.num_bytes for part in manifest.shards), reverse=True)
    needed = sum(largest[:together])
    if needed > cache_bytes:
        raise MedvisionError(
            f"{together} shards that are mixed with each other take {needed / GIGABYTE:.3g} GB,"
            f" the cache has {cache_bytes / GIGABYTE:.3g} GB",
            where="data.cache_gb",
            hint="raise it, or lower data.shuffle_shards",
        )


_OPTIONS = {
    "num_classes": "--num-classes",
    "color_map": "--color",
    "value_range": "--value-range",
}


def _words(value: object) -> str:
    return "null" if value is None else str(value)
