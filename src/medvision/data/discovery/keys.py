"""Config keys that say how a folder is read, where its names leave a doubt."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from medvision.data.reading import Reading
from medvision.data.splits.groups import MATCHING_S, MATCHING_S_PER_PATH, cpu_time_limit
from medvision.errors import MedvisionError, did_you_mean
from medvision.files import file_errors

MERGES = ("union", "majority", "first")
"""Values of ``data.mask_merge``."""

_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderKeys:
    r"""Keys of ``data`` that decide how a folder is read.

    Attributes:
        task: ``segmentation`` or ``classification`` for a folder that can be read as both.
        images: Folder of the images, or a glob of folders or files; relative to the root, or
            absolute.
        masks: The same for the masks.
        mask_suffix: Suffix of a mask's stem after the stem of its image, such as ``_mask``.
        mask_pattern: Regular expression that is replaced in the stem of an image by
            ``mask_template``, to give the stem of its mask.
        mask_template: Replacement, with references to the groups such as ``\1``.
        annotator: End of the mask's stem, or its folder, that names one of several annotators.
        mask_merge: ``union``, ``majority`` or ``first``, for several masks of an image.
        roi: Folder, glob or file of field-of-view masks; pixels outside are ignored.
        exclude: Globs of paths relative to the root that are left out.
        num_classes: Number of classes in the masks, including the background.
        on_error: ``skip`` leaves images without a mask or label out, with a note; ``fail`` refuses
            them.
        class_names: Classes that the labels of a csv may name, even if a text such as ``none``
            otherwise marks a missing label.
        class_pattern: Regular expression with one capture group, searched in each path; the
            captured text is the class.
    """

    task: str | None = None
    images: str | None = None
    masks: str | None = None
    mask_suffix: str = ""
    mask_pattern: str | None = None
    mask_template: str | None = None
    annotator: str | None = None
    mask_merge: str | None = None
    roi: str | None = None
    exclude: tuple[str, ...] = ()
    num_classes: int = 2
    on_error: str = "fail"
    class_names: tuple[str, ...] = ()
    class_pattern: str | None = None

    def __post_init__(self) -> None:
        for key in ("exclude", "class_names"):
            given = getattr(self, key)
            several = (given,) if isinstance(given, str) else tuple(map(str, given or ()))
            object.__setattr__(self, key, several)
        if self.annotator is not None:  # data.annotator=1 is a number to Hydra
            object.__setattr__(self, "annotator", str(self.annotator))
        if (self.mask_pattern is None) != (self.mask_template is None):
            raise MedvisionError(
                "expected data.mask_pattern and data.mask_template together, got one of them",
                where="data.mask_pattern",
                hint=r"for example data.mask_pattern='(\d+)_training'"
                r" data.mask_template='\1_manual1'",
            )
        if self.mask_pattern is not None and self.mask_suffix:
            raise MedvisionError(
                "data.mask_suffix and data.mask_pattern both name the masks",
                where="data.mask_suffix",
                hint="set one of them",
            )
        if self.class_pattern is not None and self.masks is not None:
            raise MedvisionError(
                "data.class_pattern names classes, data.masks names masks",
                where="data.class_pattern",
                hint="set one of them",
            )
        if self.mask_merge not in (None, *MERGES):
            raise MedvisionError(
                f"expected one of {', '.join(MERGES)}, got {self.mask_merge}",
                where="data.mask_merge",
                hint="change it",
            )
        if self.annotator is not None and self.mask_merge is not None:
            raise MedvisionError(
                "data.annotator chooses one mask, data.mask_merge combines several",
                where="data.annotator",
                hint="set one of them",
            )

    @property
    def names_masks(self) -> bool:
        """True if a key gives the name of a mask from that of its image."""
        return bool(self.mask_suffix) or self.mask_pattern is not None

    def excludes(self, path: str) -> bool:
        """Return True if a path relative to the root is left out, or a folder that holds it."""
        return any(
            fnmatchcase(path, glob) or fnmatchcase(path, f"{glob}/*") for glob in self._globs
        )

    @property
    def _globs(self) -> Iterator[str]:
        return (glob.rstrip("/") for glob in self.exclude)

    def kept(self, paths: Sequence[str]) -> Sequence[str]:
        """Return the paths that are not excluded."""
        if not self.exclude:
            return paths
        return [path for path in paths if not self.excludes(path)]

    def mask_stems(self, stems: Sequence[str]) -> list[str]:
        """Return the stem of the mask of each image stem, where a key names it.

        Folders before the last slash are kept.

        Raises:
            MedvisionError: If the pattern is invalid, takes too long or matches no image.
        """
        if self.mask_pattern is None or self.mask_template is None:
            return [stem + self.mask_suffix for stem in stems] if self.mask_suffix else list(stems)
        pattern, template, found, matched = self.mask_pattern, self.mask_template, [], 0
        seconds = MATCHING_S + MATCHING_S_PER_PATH * len(stems)
        try:
            expression = re.compile(pattern)
            with cpu_time_limit(seconds, pattern, where="data.mask_pattern"):
                for stem in stems:
                    folder, slash, name = stem.rpartition("/")
                    name, count = expression.subn(template, name, count=1)
                    matched += count
                    found.append(f"{folder}{slash}{name}")
        except (re.error, IndexError, OverflowError, RecursionError) as fault:
            raise MedvisionError(
                f"{pattern[:200]} and {template[:200]} are not a regular expression and its"
                f" replacement: {fault}",
                where="data.mask_pattern",
                hint="fix them, and quote them for the shell",
            ) from fault
        if stems and not matched:
            raise MedvisionError(
                f"{pattern[:200]} matches no image; the first is {stems[0]}",
                where="data.mask_pattern",
                hint="it must match part of the name of an image without its extension",
            )
        return found


def absolute(path: Path) -> Path:
    """Return an absolute path without ``..``, in which links are kept."""
    return Path(os.path.normpath(path.absolute()))


def anchored(root: Path | None, keys: FolderKeys) -> tuple[Path | None, FolderKeys]:
    """Return the folder that all paths are relative to, and the keys for it.

    It is the root. If images, masks or fields of view lie outside of it, or there is no root, it is
    the nearest folder above all of them, and the returned keys are absolute.
    """
    own = None if root is None else absolute(root.expanduser())
    start, places = own or Path.cwd(), [] if own is None else [own]
    texts: dict[str, Any] = {}
    for key in ("images", "masks", "roi"):
        text = getattr(keys, key)
        if text is not None:
            path = Path(os.path.normpath(start / Path(text).expanduser()))
            fixed = _fixed(path)
            texts[key] = str(path)
            places.append(fixed if fixed.is_dir() else fixed.parent)
    if not places:
        return None, keys
    common = Path(os.path.commonpath(places))
    if root is not None and common == own:
        return root.expanduser(), keys
    if keys.images is None and own is not None and keys.masks is not None:
        texts["images"] = str(own)
    exclude = keys.exclude
    if own is not None and exclude:
        inside = own.relative_to(common).as_posix()
        exclude = tuple(f"{inside}/{glob}" for glob in exclude)
    return common, replace(keys, **texts, exclude=exclude)


def _fixed(path: Path) -> Path:
    """Part of a path before its first wildcard."""
    parts: list[str] = []
    for part in path.parts:
        if _WILD.search(part):
            break
        parts.append(part)
    return Path(*parts)


def matches(root: Path, text: str, *, key: str) -> list[tuple[Path, tuple[str, ...]]]:
    """Return the files and folders that a folder or glob names, with what its wildcards matched.

    Args:
        root: Folder that all files lie in.
        text: Value of the key, relative to the root or absolute.
        key: Name of the key, for messages.

    Raises:
        MedvisionError: If nothing matches, or a folder cannot be listed.
    """
    base = absolute(root)
    path = Path(os.path.normpath(base / Path(text).expanduser()))
    if not path.is_relative_to(base):
        raise MedvisionError(f"{text} is outside of {root}", where=key, hint="give another path")
    with file_errors("cannot list the folder", root, hint="check its permissions", exit_code=2):
        found = list(_expanded(base, path.relative_to(base).parts))
    if not found:
        raise MedvisionError(
            f"nothing matches {text}", where=key, hint=f"give a folder or a glob in {root}"
        )
    return found


def _expanded(place: Path, parts: tuple[str, ...]) -> Iterable[tuple[Path, tuple[str, ...]]]:
    if not parts:
        yield place, ()
        return
    head, *rest = parts
    if not _WILD.search(head):
        if (place / head).exists():
            yield from _expanded(place / head, tuple(rest))
        return
    for inside in sorted(place.iterdir() if place.is_dir() else ()):
        if inside.name[0] != "." and fnmatchcase(inside.name, head):
            for path, caught in _expanded(inside, tuple(rest)):
                yield path, (inside.name, *caught)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataKeys:
    """Keys of ``data`` that a command takes as ``KEY=VALUE``.

    Attributes:
        folder: How the folder is read.
        reading: How the values of files are read.
        splits: Path of a csv whose splits are kept.
        group_pattern: As for `index_segmentation`.
        group_by: ``sequence``, or None.
        given: All given values by name.
    """

    folder: FolderKeys
    reading: Reading
    splits: Path | None = None
    group_pattern: str | None = None
    group_by: str | None = None
    given: Mapping[str, Any]


_READING = ("num_classes", "color_map", "value_range", "ignore_index", "instances")
_OTHERS = ("splits", "group_pattern", "group_by")


def parse_keys(arguments: Sequence[str], **options: Any) -> DataKeys:
    """Read keys of ``data`` from the end of a command line.

    Args:
        arguments: Texts such as ``data.mask_suffix=_mask``.
        **options: Values of options of the command, by key; None if not given.

    Raises:
        MedvisionError: If an argument is no ``KEY=VALUE``, or its key is unknown here.
    """
    known = tuple(dict.fromkeys((*FolderKeys.__dataclass_fields__, *_READING, *_OTHERS)))
    given = {name: value for name, value in options.items() if value not in (None, "")}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        name = name.strip().removeprefix("data.")
        if not equals:
            raise MedvisionError(
                f"expected KEY=VALUE, got {argument}",
                where="command line",
                hint="for example data.mask_suffix=_mask",
            )
        if name not in known:
            names = [f"data.{other}" for other in known]
            raise MedvisionError(
                f"unknown key data.{name}",
                where="command line",
                hint=did_you_mean(f"data.{name}", names, otherwise=f"use {', '.join(names)}"),
            )
        given[name] = _value(name, text)
    if given.get("group_by") not in (None, "sequence"):
        raise MedvisionError(
            f"expected sequence, got {given['group_by']}", where="data.group_by", hint="fix it"
        )
    reading = {name: given[name] for name in _READING if given.get(name) is not None}
    if classes := given.get("class_names") or given.get("color_map"):
        reading.setdefault("num_classes", len(classes))
    if given.get("class_names") and reading["num_classes"] > 2:
        reading["class_names"] = tuple(map(str, given["class_names"]))
    given_keys = {**given, "num_classes": reading.get("num_classes", 2)}
    try:
        return DataKeys(
            folder=folder_keys(given_keys),
            reading=Reading(**{"num_classes": 2, **reading}),
            splits=Path(given["splits"]) if given.get("splits") else None,
            group_pattern=given.get("group_pattern"),
            group_by=given.get("group_by"),
            given=given,
        )
    except TypeError as fault:
        raise MedvisionError(
            f"a value has the wrong type: {fault}", where="command line", hint="check the keys"
        ) from fault


def _value(name: str, text: str) -> Any:
    """Return a value as Hydra would read it: null, a list or number where one fits, or a text."""
    text = text.strip()
    if text in ("null", "None", ""):
        return None if text else ""
    if name in _READING or (name in ("class_names", "exclude") and text[0] == "["):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as fault:
            raise MedvisionError(
                f"{text} is no value of data.{name}", where=f"data.{name}", hint="fix it"
            ) from fault
    return text.strip("'\"")


def folder_keys(values: dict[str, Any]) -> FolderKeys:
    """Create the keys from config values, of which others are ignored."""
    known = FolderKeys.__dataclass_fields__
    return FolderKeys(**{name: value for name, value in values.items() if name in known})
