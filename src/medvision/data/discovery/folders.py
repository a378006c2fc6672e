"""Find images in folders, and record inconsistencies."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medvision.console import counted
from medvision.data.readers.kinds import (
    FORMAT_NAMES,
    IMAGE_SUFFIXES,
    kind_of_file,
    may_need_content,
)
from medvision.data.samples import SampleTable, split_name, without_suffix
from medvision.errors import MedvisionError, printable
from medvision.files import file_errors

SEGMENTATION_LAYOUT = (
    "expected FOLDER/images/* and FOLDER/masks/* with the same file names without suffix,"
    " FOLDER/{train,val,test}/{images,masks}/*, or FOLDER/splits.csv"
)
_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini", "dicomdir"})  # the last lists other files
_JUNK_FOLDERS = frozenset({"__macosx"})
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@dataclass(kw_only=True, slots=True)
class Scan:
    """Content of the folders of a data set.

    Attributes:
        samples: Images with exactly one mask, or in a class folder, by path.
        images: Every image, with a mask or without, by path.
        problems: Reasons why some images or the whole data set cannot be used, as found.
        notes: Remarks for the user, and omitted files.
        layout: Description of the folders that were recognised.
        pairing: How images and masks were paired.
        other: How else the folder may be read, with the key that decides; empty if in no way.
        inner: Folders inside of class folders that may be the classes instead, with the key.
        annotators: Masks of each image that has several, by annotator or part.
        holds_masks: True if class folders turned out to hold images and their masks.
        shapes: Images with the shapes of annotation files; None if there are none.
        in_doubt: True if a problem is that two readings are possible, so that none may be chosen.
    """

    samples: SampleTable = field(default_factory=lambda: SampleTable.of([]))
    images: Sequence[str] = ()
    problems: list[MedvisionError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layout: str = ""
    pairing: str = ""
    other: str = ""
    inner: str = ""
    annotators: dict[str, dict[str, str]] = field(default_factory=dict)
    holds_masks: bool = False
    shapes: SampleTable | None = None
    in_doubt: bool = False

    def problem(self, what: str, where: Path, hint: str, *, in_doubt: bool = False) -> None:
        """Record why images cannot be used, in the form of an error."""
        self.in_doubt |= in_doubt
        self.problems.append(MedvisionError(what, where=str(where), hint=hint))

    def refuse_problems(self) -> None:
        """Raise the first problem."""
        if self.problems:
            raise self.problems[0]


def only_content(root: Path) -> str:
    """Describe a folder that is empty or whose images lie in a single folder; '' for others."""
    if not any(root.iterdir()):
        return "an empty folder"
    files = list_images(root)[0]
    places = {str(PurePosixPath(file).parent) for file in files}
    if len(places) != 1:
        return ""
    place = places.pop()
    return f"only {counted(len(files), 'image')}" + ("" if place == "." else f" in {place}")


def is_image(path: str) -> bool:
    """Return True if a file has an image extension."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def list_images(
    folder: Path, *, refused: dict[str, str] | None = None
) -> tuple[list[str], Counter[str]]:
    """Return the image files below a folder, sorted, and the extensions of all other files.

    Hidden files, system files of Windows and macOS and DICOMDIR are excluded from both. Only files
    without an extension, or with a number as DICOM UIDs end, are opened, to detect their format.

    Args:
        folder: Folder to search.
        refused: If given, filled with the images whose name is not valid text, and the reasons.

    Raises:
        MedvisionError: If a folder cannot be listed, or a file name is not valid text and
            ``refused`` is not given.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    try:
        for parent, files in _every_folder(folder):
            inside = PurePosixPath(Path(parent).relative_to(folder).as_posix())
            start = "" if inside == PurePosixPath() else f"{inside}/"
            for name in files:
                stem, _, suffix = name.rpartition(".")
                path, suffix = start + name, f".{suffix.lower()}" if stem and suffix else ""
                if name[0] == "." or name.lower() in _JUNK_FILES:
                    continue
                known = suffix in IMAGE_SUFFIXES
                if known or (may_need_content(suffix) and kind_of_file(Path(parent, name))):
                    try:
                        _check_name(path, folder)
                    except MedvisionError as error:
                        if refused is None:
                            raise
                        refused[path] = error.what
                    else:
                        images.append(path)
                else:
                    others[suffix or "no extension"] += 1
    except OSError as fault:
        raise MedvisionError(
            f"cannot list the folder: {fault.strerror}",
            where=str(fault.filename or folder),
            hint="check its permissions",
        ) from fault
    images.sort()
    return images, others


def _check_name(path: str, folder: Path) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as fault:
        raise MedvisionError(
            "a file name is not valid UTF-8", where=ascii(path), hint="rename the file"
        ) from fault
    refuse_controls(path, where=str(folder))


def refuse_controls(name: str, *, where: str | None = None) -> None:
    """Reject a name with control characters, except line breaks.

    Raises:
        MedvisionError: If it contains a control character.
    """
    if _CONTROL.search(name):
        raise MedvisionError(
            f"the name {printable(name)} contains a control character",
            where=where,
            hint="rename it",
        )


def _every_folder(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each subfolder once with its files: first real folders, then linked ones.

    Links may lead to a folder more than once, or form cycles.
    """
    known: set[tuple[int, int]] = set()
    tops = [str(top)]
    for start in tops:  # grows while iterating
        for parent, folders, files in os.walk(start, onerror=_raise):
            status = Path(parent).stat()
            place = (status.st_dev, status.st_ino)
            if place in known:
                folders.clear()
                continue
            known.add(place)
            kept = (f for f in folders if f[0] != "." and f.lower() not in _JUNK_FOLDERS)
            folders[:] = sorted(kept)
            inside = (Path(parent, name) for name in folders)
            tops += [str(path) for path in inside if path.is_symlink()]
            yield parent, files


def missing_files(root: Path, names: Iterable[str]) -> list[str]:
    """Return the names below the root that are not files, listing each folder once."""
    listings: dict[str, set[str]] = {}
    missing = []
    for path in names:
        folder, _, name = path.rpartition("/")
        if folder not in listings:
            try:
                with os.scandir(root / folder) as entries:
                    listings[folder] = {entry.name for entry in entries if entry.is_file()}
            except OSError:  # then check each of its files
                listings[folder] = set()
        # A file system may accept other spellings of a name than the one it lists.
        if name not in listings[folder] and not (root / path).is_file():
            missing.append(path)
    return missing


def subfolders(folder: Path) -> list[Path]:
    """Return the subfolders by name, without hidden ones and those of macOS.

    Raises:
        MedvisionError: If the folder cannot be listed.
    """
    with (
        file_errors("cannot list the folder", folder, hint="check its permissions", exit_code=2),
        os.scandir(folder) as entries,
    ):
        inside = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    kept = [p for p in inside if p.name[0] != "." and p.name.lower() not in _JUNK_FOLDERS]
    for path in kept:
        refuse_controls(path.name, where=str(folder))
    return kept


def images_in(root: Path, folder: Path, scan: Scan, *, what: str, layout: str) -> list[str]:
    """Return the images below a folder, relative to it.

    If there are none, a problem is recorded; for other files, a note.
    """
    files, others = list_images(folder)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    if not files:
        found = f", only {kinds}" if kinds else ""
        hint = f"{layout}; files must be {FORMAT_NAMES}"
        scan.problem(f"no {what} in the folder{found}", folder, hint)
    elif kinds:
        scan.notes.append(f"other files in {folder.relative_to(root)} were ignored: {kinds}")
    return files


def split_by_names(scan: Scan, samples: SampleTable) -> SampleTable:
    """Read the split of images named such as ``train_1.bmp`` and ``testA_1.bmp``, if all are."""
    splits: list[str] = []
    for path in samples.paths:
        named = splits_named_in(without_suffix(path).rpartition("/")[2])
        if len(named) != 1:
            return samples
        splits += named
    if not divide(splits):
        return samples
    scan.notes.append(f"read {', '.join(sorted(set(splits)))} in the file names as the given split")
    return samples.with_column(splits=splits)


def divide(splits: Sequence[str]) -> bool:
    """Return True if every image has a split, and train is one of several."""
    return all(splits) and "train" in splits and len(set(splits)) > 1


def splits_named_in(name: str) -> set[str]:
    """Return the splits that words in the name of a folder or file name."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return {split for word in words if (split := split_name(_UNITED.get(word.lower(), word)))}


_UNITED = {"trainval": "train"}
"""Splits that sets join; the validation is drawn from it."""


def _raise(fault: OSError) -> None:
    raise fault
