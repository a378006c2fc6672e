"""Pair the images of folders with their masks, and record inconsistencies."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from medvision.console import counted
from medvision.data.discovery.folders import SEGMENTATION_LAYOUT, Scan, images_in, subfolders
from medvision.data.samples import (
    SampleTable,
    StringColumn,
    count_names,
    split_name,
    without_suffix,
)


def scan_segmentation(root: Path, *, mask_suffix: str) -> Scan:
    """Pair the images below ``root`` with their masks, recording problems instead of raising them.

    Raises:
        MedvisionError: If a folder cannot be listed.
    """
    scan = Scan()
    folders = _folders(root, scan)
    if not folders:
        scan.problem("no images folder", root, SEGMENTATION_LAYOUT)
    tables, found = [], []
    for split, images, masks in folders:
        if masks is None:
            scan.problem("no masks folder beside images", images, SEGMENTATION_LAYOUT)
        paired, every_image = _pair(root, scan, split, images, masks, mask_suffix)
        tables.append(paired)
        found.append(every_image)
    samples = tables[0] if len(tables) == 1 else SampleTable.joined(tables)
    samples = _splits_inside(scan, samples, images=folders[0][1].name if folders else "")
    scan.samples = samples.by_path()
    names = found[0] if len(found) == 1 else StringColumn.of(chain.from_iterable(found))
    scan.images = names if names.ascends() else names.select(names.sorted_rows())
    return scan


def _folders(root: Path, scan: Scan) -> list[tuple[str, Path, Path | None]]:
    """Return (split or empty, images folder, masks folder or None) of the layout in use."""
    inside = _by_name(root)
    found = []
    for name in sorted(inside):
        split = split_name(name)
        deeper = _by_name(inside[name]) if split else {}
        if split and "images" in deeper:
            found.append((split, deeper["images"], deeper.get("masks")))
    if "images" not in inside:
        return found
    if found:
        scan.notes.append("ignored the folder images beside the folders of the given splits")
        return found
    return [("", inside["images"], inside.get("masks"))]


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.name.lower(): path for path in subfolders(folder)}


def _pair(
    root: Path, scan: Scan, split: str, images: Path, masks: Path | None, mask_suffix: str
) -> tuple[SampleTable, StringColumn]:
    """Return the images with one mask each, and all images, relative to the root."""
    of_images, of_masks = (path.relative_to(root).as_posix() for path in (images, masks or images))
    image_files, same_stem_images = _files(root, images, scan, what="images")
    mask_files, same_stem_masks = _files(root, masks, scan, what="masks") if masks else ([], {})
    mask_of = dict(zip(map(_stem, reversed(mask_files)), reversed(mask_files), strict=True))
    without_mask, paired, targets = [], [], []
    num_stems = len(image_files) - sum(len(names) - 1 for names in same_stem_images.values())
    for file in image_files:
        stem = _stem(file)
        if stem in same_stem_images and same_stem_images[stem][0] != file:
            continue
        mask = mask_of.pop(stem + mask_suffix, None)
        if mask is None:
            without_mask.append(file)
        elif stem not in same_stem_images and stem + mask_suffix not in same_stem_masks:
            paired.append(file)
            targets.append(mask)
    if without_mask and masks:
        names = [f"{of_images}/{file}" for file in without_mask]
        scan.problem(
            f"no mask for {len(without_mask)} of {num_stems} images: {count_names(names)}",
            masks,
            _suffix_hint(map(_stem, image_files[:5]), mask_of)
            or "a mask needs the file stem of its image: add the masks, or remove the images",
        )
    if mask_of and masks and image_files:
        left = [
            name for stem, file in mask_of.items() for name in same_stem_masks.get(stem, [file])
        ]
        orphans = sorted(f"{of_masks}/{file}" for file in left)
        scan.notes.append(f"no image for {counted(len(orphans), 'mask')}: {count_names(orphans)}")
    samples = SampleTable.of_split_files(
        (f"{of_images}/{file}" for file in paired),
        (f"{of_masks}/{file}" for file in targets),
        split,
    )
    if len(paired) == len(image_files):
        return samples, samples.paths
    return samples, StringColumn.of(f"{of_images}/{file}" for file in image_files)


def _files(
    root: Path, folder: Path, scan: Scan, *, what: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the files of a folder, relative to it, and the files of each repeated stem."""
    files = images_in(root, folder, scan, what=what, layout=SEGMENTATION_LAYOUT)
    keys = np.fromiter((hash(_stem(file)) for file in files), np.int64, len(files))
    values, counts = np.unique(keys, return_counts=True)
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for row in np.flatnonzero(np.isin(keys, values[counts > 1])).tolist():
        by_stem[_stem(files[row])].append(files[row])
    same_stem = {stem: names for stem, names in by_stem.items() if len(names) > 1}
    inside = folder.relative_to(root).as_posix()
    repeated = [" and ".join(f"{inside}/{n}" for n in names) for names in same_stem.values()]
    if repeated:
        message = f"{counted(len(repeated), 'stem')} used more than once: {count_names(repeated)}"
        scan.problem(message, folder, f"keep one of the {what} of each stem")
    return files, same_stem


def _stem(file: str) -> str:
    """Return the name without extension, with accents normalised (macOS zips decompose them)."""
    return unicodedata.normalize("NFC", without_suffix(file))


def _suffix_hint(images: Iterable[str], masks: Iterable[str]) -> str | None:
    """Return a hint if the unmatched masks are named as an image plus a common suffix."""
    rest = list(masks)
    endings = Counter(
        mask.removeprefix(image)
        for image in list(images)[:5]
        for mask in rest
        if mask.startswith(image) and mask != image
    )
    if not endings:
        return None
    return f"set data.mask_suffix={endings.most_common(1)[0][0]} if masks are named so"


def _splits_inside(scan: Scan, samples: SampleTable, *, images: str) -> SampleTable:
    """Treat ``images/train/...`` as a given split if every image is in such a folder."""
    if not samples or samples.splits.numbered()[0] != [""]:
        return samples
    names: list[str] = []
    for path in samples.paths:
        folder, slash, _ = path.partition("/")[2].partition("/")
        name = split_name(folder) if slash else None
        if name is None:
            return samples
        names.append(name)
    scan.notes.append(f"read the folders inside {images} as the given split")
    return samples.with_column(splits=names)
