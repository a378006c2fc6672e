"""Cache file properties, so that a data set is decoded once instead of at every start.

A row is valid while size and modification time of the image (and of its mask) are unchanged. The
cache contains names, properties and 48 px thumbnails; it is outside data set and run folders, in
``MEDVISION_CACHE_DIR``, ``XDG_CACHE_HOME/medvision`` or ``~/.cache/medvision``, accessible only to
its owner.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.annotations import container
from medvision.data.reading import Reading
from medvision.data.samples import Sample, files_in
from medvision.data.validation.properties import ImageProperties, Inspected, Row
from medvision.files import atomic_path, own_folder

FORMAT = 6
"""Format version; increment it when a property changes its meaning, to invalidate older files."""

READABLE = (2, 3, 4, 5, FORMAT)
"""Formats that shards may hold: 2 has no thumbnails of the content, 3 and 4 have old margins, and
up to 5 the grey levels of palettes and instances count as intermediate."""


class PropertiesCache:
    """Cached properties of the files of a folder, for one set of reading options.

    Args:
        root: Folder of the data set.
        reading: Reading options.
    """

    def __init__(self, root: Path, reading: Reading) -> None:
        self.root, self._with_masks = root, reading.has_masks
        options: list[tuple[str, Any]] = [("value_range", reading.value_range)]
        if reading.has_masks:
            options += [("color_map", reading.color_map), ("masks", reading.num_classes)]
            more = (
                ("ignore", reading.ignore_index),
                ("merge", reading.mask_merge),
                ("names", reading.class_names),
                ("instances", reading.instances or None),
            )
            options += [(name, value) for name, value in more if value is not None]
        words = repr((FORMAT, str(root.resolve()), sorted(options)))
        self._name = f"facts-{hashlib.sha256(words.encode()).hexdigest()[:24]}.npz"
        self._rows: dict[str, tuple[str, Row]] | None = None

    def known(self, sample: Sample) -> Inspected | None:
        """Return the cached properties of a sample if its files are unchanged, else None."""
        if self._rows is None:
            self._rows = self._read()
        if not self._rows:
            return None
        try:
            line, properties = self._rows[self._key(sample)]
        except (OSError, KeyError):  # a missing file is reported by its reader
            return None
        content = line.removeprefix(f"{sample.path}\0{sample.target}")
        return Inspected(content=content, properties=properties)

    def keep(self, samples: Iterable[tuple[Sample, Inspected]]) -> list[str]:
        """Replace all rows by these; return a note if writing fails."""
        try:
            found = {self._key(sample): (sample, row) for sample, row in samples}
            if not found or (self._rows is not None and found.keys() == self._rows.keys()):
                return []
            lines = [f"{s.path}\0{s.target}{row.content}" for s, row in found.values()]
            rows = [row.properties for _, row in found.values() if row.properties is not None]
            texts = {"keys": _text(list(found)), "lines": _text(lines)}
            columns = ImageProperties.stack(rows).to_columns()
            store(own_folder("cache") / self._name, {**texts, **columns})
        except (OSError, RuntimeError) as fault:  # RuntimeError: no home folder
            return [
                f"the file properties cannot be cached for the next start ({fault});"
                " set MEDVISION_CACHE_DIR to a writable folder"
            ]
        return []

    def _read(self) -> dict[str, tuple[str, Row]]:
        """Read the cache; empty if missing or damaged, in which case it is written again."""
        try:
            stored = recall(own_folder("cache") / self._name)
            keys, lines = (json.loads(stored[name].tobytes()) for name in ("keys", "lines"))
            columns = ImageProperties.from_columns(
                stored, num_rows=len(keys), with_masks=self._with_masks
            ).to_columns()
            rows = ({name: column[k] for name, column in columns.items()} for k in range(len(keys)))
            return dict(zip(keys, zip(lines, rows, strict=True), strict=True))
        except (RuntimeError, ValueError, KeyError):
            return {}

    def _key(self, sample: Sample) -> str:
        """Return name, size and time of the image and, if the target is a file, of its mask."""
        parts: list[Any] = [sample.path, sample.target]
        for name in map(container, (sample.path, *files_in(sample.target))):
            try:
                state = (self.root / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                if name == container(sample.path):
                    raise
                continue  # a class name
            if stat.S_ISREG(state.st_mode):  # class names may equal folder names
                parts += [state.st_size, state.st_mtime_ns]
        return json.dumps(parts)


def store(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays atomically, accessible only to their owner."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        atomic_path(path) as temporary,
        os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream,
    ):
        np.savez(stream, allow_pickle=False, **columns)


def recall(path: Path) -> dict[str, NDArray[Any]]:
    """Read arrays written by `store`; empty if missing or damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def _text(lines: list[str]) -> NDArray[np.uint8]:
    """Encode lines as bytes; text arrays lose trailing zeros and are four times as large."""
    return np.frombuffer(json.dumps(lines).encode(), np.uint8)
