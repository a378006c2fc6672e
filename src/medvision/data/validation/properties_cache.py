"""Keep what files told, so that a data set is decoded once and not at every start.

A row counts as long as size and time of change of the image (and of its mask) are what they were.
The cache holds names, facts and 48 px thumbnails; it lies outside data set and run folders, under
``MEDVISION_CACHE_DIR``, ``XDG_CACHE_HOME/medvision`` or ``~/.cache/medvision``, for its owner only.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.reading import Reading
from medvision.data.samples import Sample
from medvision.data.validation.properties import FileProperties, ImageProperties
from medvision.files import atomic_path, own_folder

FORMAT = 2
"""Grows when a fact changes its meaning: older files are then read by nobody."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """One sample: the line of its fingerprint and the properties of its files."""

    line: str
    properties: FileProperties


class PropertiesCache:
    """Properties of the files of one folder, read in one way.

    Args:
        root: The folder of the data set.
        reading: How the files are read.

    Attributes:
        note: Why nothing is kept, in words; None while all is well.
    """

    def __init__(self, root: Path, reading: Reading) -> None:
        self.root, self._with_masks = root, reading.has_masks
        self.note: str | None = None
        options: list[tuple[str, Any]] = [("value_range", reading.value_range)]
        if reading.has_masks:
            options += [("color_map", reading.color_map), ("masks", reading.num_classes)]
        words = repr((FORMAT, str(root.resolve()), sorted(options)))
        self._name = f"facts-{hashlib.sha256(words.encode()).hexdigest()[:24]}.npz"
        self._rows: dict[str, Remembered] | None = None

    def known(self, sample: Sample) -> Remembered | None:
        """What is remembered about a sample whose files have not changed since."""
        if self._rows is None:
            self._rows = self._read()
        if not self._rows:
            return None
        try:
            return self._rows.get(self._key(sample))
        except OSError:  # gone or unreadable: whoever reads it says so
            return None

    def keep(self, samples: Iterable[tuple[Sample, Remembered]]) -> None:
        """Write these rows in the place of all others; where that fails, ``note`` says why."""
        try:
            found = {self._key(sample): row for sample, row in samples}
            if not found or (self._rows is not None and found.keys() == self._rows.keys()):
                return
            store(own_folder("cache") / self._name, _columns(found))
        except (OSError, RuntimeError) as fault:  # RuntimeError: no home folder
            self.note = (
                f"what the files told cannot be kept for the next start ({fault});"
                " set MEDVISION_CACHE_DIR to a folder that can be written"
            )

    def _read(self) -> dict[str, Remembered]:
        """Nothing where there is no cache, or a damaged one: it is written anew."""
        try:
            columns = recall(own_folder("cache") / self._name)
            return _rows(columns, with_masks=self._with_masks)
        except (RuntimeError, ValueError, KeyError):
            return {}

    def _key(self, sample: Sample) -> str:
        """Names, sizes and times of the image and, where the target is a file, of its mask."""
        parts: list[Any] = [sample.path, sample.target]
        for name in (sample.path, sample.target):
            try:
                state = (self.root / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                if name == sample.path:
                    raise
                continue  # the name of a class
            if stat.S_ISREG(state.st_mode):  # class names may be those of folders
                parts += [state.st_size, state.st_mtime_ns]
        return json.dumps(parts)


def store(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays whole or not at all, for their owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        atomic_path(path) as temporary,
        os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream,
    ):
        np.savez(stream, allow_pickle=False, **columns)


def recall(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays that `store` wrote; none where nothing is kept, or what is kept is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def _columns(rows: Mapping[str, Remembered]) -> dict[str, NDArray[Any]]:
    """The rows as plain arrays, which load without unpickling anything."""
    kept = list(rows.values())
    about = ImageProperties.stack([row.properties for row in kept])
    texts = {"keys": _text(list(rows)), "lines": _text([row.line for row in kept])}
    return {**texts, **about.to_columns()}


def _rows(columns: Mapping[str, Any], *, with_masks: bool) -> dict[str, Remembered]:
    keys, lines = (json.loads(columns[name].tobytes()) for name in ("keys", "lines"))
    about = ImageProperties.from_columns(columns, num_rows=len(keys), with_masks=with_masks)
    texts = zip(keys, lines, strict=True)
    return {key: Remembered(line, about.row(row)) for row, (key, line) in enumerate(texts)}


def _text(lines: list[str]) -> NDArray[np.uint8]:
    """Lines as bytes: arrays of text would lose what ends in zeros, and take four times as much."""
    return np.frombuffer(json.dumps(lines).encode(), np.uint8)
