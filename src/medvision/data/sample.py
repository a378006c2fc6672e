"""One image with what is known about it, and the names splits go by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of folders and of csv entries, in any case, and the split each means."""

_ODD = re.compile(r"/\.?/")  # parts that a path is written without


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image of a data set.

    Attributes:
        path: The image, relative to the root, with forward slashes.
        target: The mask, relative to the root, or the name of the class.
        group: Whatever must stay together (a patient, a video), or empty: the image alone.
        split: ``train``, ``val`` or ``test``, or empty: not assigned yet.
    """

    path: str
    target: str
    group: str = ""
    split: str = ""

    @property
    def group_key(self) -> str:
        """The group, or for an image alone its path without the extension."""
        return self.group or without_suffix(self.path)


def without_suffix(path: str) -> str:
    """Return a path without the extension of its file, as `PurePosixPath` spells it."""
    folder, slash, name = path.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    plain = stem and suffix and stem[0] != "." and path[0] not in "./" and _ODD.search(path) is None
    return f"{folder}{slash}{stem}" if plain else str(PurePosixPath(path).with_suffix(""))


def split_name(name: str) -> str | None:
    """Return the split that a folder or csv entry names, or None."""
    return SPLIT_NAMES.get(name.strip().lower())


def count_names(names: list[str], *, shown: int = 5) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
