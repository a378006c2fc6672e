"""Find images in folders, and tell what does not fit together."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medvision.data.readers.dicom import SUFFIXES
from medvision.data.samples import SampleTable
from medvision.errors import MedvisionError, printable
from medvision.files import file_errors

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"}) | SUFFIXES
SEGMENTATION_LAYOUT = (
    "expected ROOT/images/* and ROOT/masks/* with the same file stems,"
    " ROOT/{train,val,test}/{images,masks}/*, or ROOT/splits.csv"
)
_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini"})
_JUNK_FOLDERS = frozenset({"__macosx"})
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@dataclass(kw_only=True, slots=True)
class Scan:
    """What lies in the folders of a data set.

    Attributes:
        samples: Images with exactly one mask, or in the folder of a class, by path.
        images: Every image, with a mask or without, by path.
        problems: Why some images or the whole set cannot be used, as found.
        notes: What a reader should know, and what was left out.
    """

    samples: SampleTable = field(default_factory=lambda: SampleTable.of([]))
    images: Sequence[str] = ()
    problems: list[MedvisionError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, what: str, where: Path, hint: str) -> None:
        """Note why images cannot be used, as an error says it."""
        self.problems.append(MedvisionError(what, where=str(where), hint=hint))

    def refuse_problems(self) -> None:
        """Raise the first problem."""
        if self.problems:
            raise self.problems[0]


def is_image(path: str) -> bool:
    """Whether a file is named as an image."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def list_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the image files below a folder, sorted, and the extensions of all other files.

    Hidden files and what Windows and macOS leave behind count as neither. Folders are listed, no
    file is looked at.

    Raises:
        MedvisionError: If a folder cannot be listed, or a file name is not valid text.
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
                if suffix in IMAGE_SUFFIXES:
                    path.encode()
                    refuse_controls(path, where=str(folder))
                    images.append(path)
                else:
                    others[suffix or "no extension"] += 1
    except OSError as fault:
        raise MedvisionError(
            f"cannot list the folder: {fault.strerror}",
            where=str(fault.filename or folder),
            hint="check its permissions",
        ) from fault
    except UnicodeEncodeError as fault:
        raise MedvisionError(
            "a file name is not valid UTF-8", where=ascii(path), hint="rename the file"
        ) from fault
    images.sort()
    return images, others


def refuse_controls(name: str, *, where: str | None = None) -> None:
    """Refuse a name that would steer a terminal; a line break may stand in one.

    Raises:
        MedvisionError: If it holds a control character.
    """
    if _CONTROL.search(name):
        raise MedvisionError(
            f"the name {printable(name)} holds a control character", where=where, hint="rename it"
        )


def _every_folder(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below once, with its files: first all real ones, then those behind links.

    Links may lead to one folder twice, and round in a circle.
    """
    known: set[tuple[int, int]] = set()
    tops = [str(top)]
    for start in tops:  # grows
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
    """Return the names below the root that are no files; each folder is listed once."""
    listings: dict[str, set[str]] = {}
    missing = []
    for path in names:
        folder, _, name = path.rpartition("/")
        if folder not in listings:
            try:
                with os.scandir(root / folder) as entries:
                    listings[folder] = {entry.name for entry in entries if entry.is_file()}
            except OSError:  # each of its files is then asked for
                listings[folder] = set()
        # A disk may take names in other spellings than it lists them in.
        if name not in listings[folder] and not (root / path).is_file():
            missing.append(path)
    return missing


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside, by name; hidden ones and those of macOS are left out.

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

    None at all is a problem of the scan, files of other kinds are a note.
    """
    files, others = list_images(folder)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    if not files:
        found = f", only {kinds}" if kinds else ""
        hint = f"{layout}; files must be JPEG, PNG, BMP, TIFF or DICOM (.dcm)"
        scan.problem(f"no {what} in the folder{found}", folder, hint)
    elif kinds:
        scan.notes.append(f"other files in {folder.relative_to(root)} were left out: {kinds}")
    return files


def _raise(fault: OSError) -> None:
    raise fault
