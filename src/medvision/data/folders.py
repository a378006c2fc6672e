"""Find images in folders and pair them with masks, and tell what does not fit together."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medvision.data.sample import Sample, count_names, split_name
from medvision.types import MedvisionError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
SEGMENTATION_LAYOUT = (
    "expected ROOT/images/* and ROOT/masks/* with the same file stems,"
    " ROOT/{train,val,test}/{images,masks}/*, or ROOT/splits.csv"
)
_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini"})
_JUNK_FOLDERS = frozenset({"__macosx"})


@dataclass(kw_only=True, slots=True)
class Scan:
    """What lies in the folders of a data set.

    Attributes:
        samples: Images with exactly one mask, or in the folder of a class, by path.
        images: Every image, with a mask or without, by path.
        problems: Why some images or the whole set cannot be used, as found.
        notes: What a reader should know, and what was left out.
    """

    samples: list[Sample] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    problems: list[MedvisionError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_images(folder: Path) -> tuple[list[PurePosixPath], Counter[str]]:
    """Return the image files below a folder, sorted, and the extensions of all other files.

    Hidden files and what Windows and macOS leave behind count as neither.

    Raises:
        MedvisionError: If a folder cannot be listed, or a file name is not valid text.
    """
    images: list[PurePosixPath] = []
    others: Counter[str] = Counter()
    try:
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [f for f in folders if f[0] != "." and f.lower() not in _JUNK_FOLDERS]
            inside = PurePosixPath(Path(parent).relative_to(folder).as_posix())
            for name in files:
                path = inside / name
                if name.startswith(".") or name.lower() in _JUNK_FILES:
                    continue
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    str(path).encode()
                    images.append(path)
                else:
                    others[path.suffix.lower() or "no extension"] += 1
    except OSError as fault:
        raise MedvisionError(
            f"cannot list the folder: {fault.strerror}",
            where=str(fault.filename or folder),
            hint="check its permissions",
        ) from fault
    except UnicodeEncodeError as fault:
        raise MedvisionError(
            "a file name is not valid UTF-8", where=ascii(str(path)), hint="rename the file"
        ) from fault
    return sorted(images, key=str), others


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside, by name; hidden ones and those of macOS are left out.

    Raises:
        MedvisionError: If the folder cannot be listed.
    """
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as fault:
        raise MedvisionError(
            f"cannot list the folder: {fault.strerror}",
            where=str(folder),
            hint="check its permissions",
        ) from fault
    return [p for p in inside if p.name[0] != "." and p.name.lower() not in _JUNK_FOLDERS]


def images_in(
    root: Path, folder: Path, scan: Scan, *, what: str, layout: str
) -> list[PurePosixPath]:
    """Return the images below a folder, relative to it.

    None at all is a problem of the scan, files of other kinds are a note.
    """
    files, others = list_images(folder)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    if not files:
        found = f", only {kinds}" if kinds else ""
        scan.problems.append(
            MedvisionError(
                f"no {what} in the folder{found}",
                where=str(folder),
                hint=f"{layout}; files must be JPEG, PNG, BMP or TIFF",
            )
        )
    elif kinds:
        scan.notes.append(f"other files in {folder.relative_to(root)} were left out: {kinds}")
    return files


def scan_segmentation(root: Path, *, mask_suffix: str) -> Scan:
    """Pair the images below ``root`` with their masks, and raise nothing that can be told.

    Raises:
        MedvisionError: If a folder cannot be listed.
    """
    scan = Scan()
    folders = _folders(root, scan)
    if not folders:
        scan.problems.append(
            MedvisionError("no folder of images", where=str(root), hint=SEGMENTATION_LAYOUT)
        )
    for split, images, masks in folders:
        if masks is None:
            scan.problems.append(
                MedvisionError(
                    "no folder masks beside images", where=str(images), hint=SEGMENTATION_LAYOUT
                )
            )
        _pair(root, scan, split, images, masks, mask_suffix)
    scan.samples = _splits_inside(scan, images=folders[0][1].name if folders else "")
    scan.samples.sort(key=lambda sample: sample.path)
    scan.images.sort()
    return scan


def _folders(root: Path, scan: Scan) -> list[tuple[str, Path, Path | None]]:
    """Return (split or empty, images folder, masks folder if there) of the layout in use."""
    inside = _by_name(root)
    found = []
    for name in sorted(inside):
        split, deeper = split_name(name), _by_name(inside[name])
        if split and "images" in deeper:
            found.append((split, deeper["images"], deeper.get("masks")))
    if "images" not in inside:
        return found
    if found:
        scan.notes.append("the folder images beside the folders of given splits is left out")
        return found
    return [("", inside["images"], inside.get("masks"))]


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.name.lower(): path for path in subfolders(folder)}


def _pair(
    root: Path, scan: Scan, split: str, images: Path, masks: Path | None, mask_suffix: str
) -> None:
    image_files = _by_stem(root, images, scan, what="images")
    mask_files = _by_stem(root, masks, scan, what="masks") if masks else {}
    without_mask = []
    for stem, (image, *twins) in image_files.items():
        targets = mask_files.pop(stem + mask_suffix, [])
        scan.images += [image, *twins]
        if not targets:
            without_mask.append(image)
        elif not twins and len(targets) == 1:
            scan.samples.append(Sample(path=image, target=targets[0], split=split))
    if without_mask and masks:
        scan.problems.append(
            MedvisionError(
                f"{len(without_mask)} of {len(image_files)} images have no mask:"
                f" {count_names(without_mask)}",
                where=str(masks),
                hint=_suffix_hint(image_files, mask_files)
                or "a mask has the stem of its image: add the masks, or remove the images",
            )
        )
    orphans = sorted(name for names in mask_files.values() for name in names)
    if orphans and image_files:
        scan.notes.append(f"{len(orphans)} masks have no image: {count_names(orphans)}")


def _by_stem(root: Path, folder: Path, scan: Scan, *, what: str) -> dict[str, list[str]]:
    """Return the files of a folder, relative to the root, by sub-folder and stem."""
    by_stem = defaultdict(list)
    for file in images_in(root, folder, scan, what=what, layout=SEGMENTATION_LAYOUT):
        # a zip made on macOS spells accents in two characters where others use one
        stem = unicodedata.normalize("NFC", str(file.with_suffix("")))
        by_stem[stem].append((folder.relative_to(root) / file).as_posix())
    twins = [" and ".join(names) for names in by_stem.values() if len(names) > 1]
    if twins:
        scan.problems.append(
            MedvisionError(
                f"{len(twins)} times the same stem: {count_names(twins)}",
                where=str(folder),
                hint=f"keep one of the {what} of each stem",
            )
        )
    return dict(by_stem)


def _suffix_hint(images: Iterable[str], masks: Iterable[str]) -> str | None:
    """Return a hint if the masks left over are named as an image plus one common ending."""
    rest = list(masks)
    endings = Counter(
        mask.removeprefix(image)
        for image in list(images)[:5]
        for mask in rest
        if mask.startswith(image) and mask != image
    )
    if not endings:
        return None
    return f"set data.mask_suffix={endings.most_common(1)[0][0]} if that is how masks are named"


def _splits_inside(scan: Scan, *, images: str) -> list[Sample]:
    """Read ``images/train/...`` as a given split where every image lies in such a folder."""
    if not scan.samples or any(sample.split for sample in scan.samples):
        return scan.samples
    parts = [PurePosixPath(sample.path).parts for sample in scan.samples]
    names = [split_name(part[1]) if len(part) > 2 else None for part in parts]
    if None in names:
        return scan.samples
    scan.notes.append(f"the folders inside {images} were read as the given split")
    return [
        Sample(path=sample.path, target=sample.target, split=name or "")
        for sample, name in zip(scan.samples, names, strict=True)
    ]


def _raise(fault: OSError) -> None:
    raise fault
