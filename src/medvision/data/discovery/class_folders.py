"""Find the images of class folders, and report folders that are not a classification data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from medvision.console import counted
from medvision.data.discovery.folders import Scan, images_in, is_image, subfolders
from medvision.data.samples import SampleTable, count_names, split_name
from medvision.errors import MedvisionError, did_you_mean
from medvision.types import IGNORE_INDEX

CLASS_LAYOUT = "expected ROOT/<class>/*, ROOT/{train,val,test}/<class>/*, or ROOT/splits.csv"


def scan_classes(root: Path) -> Scan:
    """List the images below each class folder, recording problems instead of raising them.

    Reads ``ROOT/<class>/*``, or ``ROOT/{train,val,test}/<class>/*`` if a folder of ``root`` is
    named after a split; deeper folders belong to their class.

    Raises:
        MedvisionError: If a folder cannot be listed.
    """
    scan = Scan()
    inside = subfolders(root)
    given = [(split, folder) for folder in inside if (split := split_name(folder.name))]
    if given:
        _refuse_strays(scan, root)
        beside = [folder.name for folder in inside if not split_name(folder.name)]
        if beside:
            scan.notes.append(
                f"ignored beside the folders of the given splits: {count_names(beside)}"
            )
    parts = [
        part
        for split, folder in given or [("", root)]
        for part in _scan_folder(root, scan, split, folder)
    ]
    scan.samples = SampleTable.joined(parts).by_path()
    scan.images = scan.samples.paths
    return scan


def order_classes(root: Path, samples: SampleTable, class_names: Sequence[str] | None) -> list[str]:
    """Return the class names in index order after checking them against the samples.

    The order is that of ``class_names``, or alphabetical, ignoring case.

    Raises:
        MedvisionError: If there is only one class, two have nearly the same name, val or test
            contains one that train does not, or ``class_names`` does not list each once.
    """
    names = samples.targets.numbered()[0]
    found = sorted(names, key=lambda name: (name.casefold(), name))
    if len(found) == 1:
        raise MedvisionError(
            f"expected at least 2 classes, found only {found[0]}",
            where=str(root),
            hint=_deeper(root) or CLASS_LAYOUT,
        )
    if len(found) > IGNORE_INDEX:
        raise MedvisionError(
            f"expected at most {IGNORE_INDEX} classes, found {len(found)}",
            where=str(root),
            hint=CLASS_LAYOUT,
        )
    _refuse_alike(root, found)
    _refuse_untrained(root, samples)
    return found if class_names is None else _chosen(class_names, found)


def _scan_folder(root: Path, scan: Scan, split: str, folder: Path) -> Iterator[SampleTable]:
    """Yield the images of each class."""
    _refuse_strays(scan, folder)
    classes = subfolders(folder)
    names = {path.name.lower() for path in classes}
    if not classes:
        scan.problem("no class folders", folder, CLASS_LAYOUT)
    elif {"images", "masks"} <= names:
        scan.problem(
            "expected class folders, found the folders images and masks of a segmentation set",
            folder,
            "choose a segmentation experiment, or another data.root",
        )
    for path in classes:
        inside = [deeper.name for deeper in subfolders(path) if split_name(deeper.name)]
        if inside:  # as a single class, it would mix train and test
            scan.problem(
                f"expected class folders, found split folders ({', '.join(inside)}) in {path.name}",
                folder,
                f"did you mean data.root={path}? {CLASS_LAYOUT}",
            )
        files = images_in(root, path, scan, what="images", layout=CLASS_LAYOUT)
        start = path.relative_to(root).as_posix()
        yield SampleTable.of_split_files(
            (f"{start}/{file}" for file in files), [path.name] * len(files), split
        )


def _refuse_strays(scan: Scan, folder: Path) -> None:
    """Record images beside class folders or splits, because their class is unknown."""
    with os.scandir(folder) as entries:
        strays = sorted(
            e.name for e in entries if is_image(e.name) and e.name[0] != "." and not e.is_dir()
        )
    if strays:
        what = f"{counted(len(strays), 'image')} outside the class folders: {count_names(strays)}"
        scan.problem(what, folder, f"move or remove them: {CLASS_LAYOUT}")


def _deeper(root: Path) -> str | None:
    """Return a hint if the data are in a subfolder of the root."""
    folder, inside = root, subfolders(root)
    while len(inside) == 1:
        folder, inside = inside[0], subfolders(inside[0])
    return f"did you mean data.root={folder}? {CLASS_LAYOUT}" if inside and folder != root else None


def _refuse_alike(root: Path, found: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in found:
        plain = re.sub(r"[\s_-]+", " ", name).strip().casefold()
        if plain in seen:
            raise MedvisionError(
                f"the classes {seen[plain]} and {name} differ only by case or spaces",
                where=str(root),
                hint=f"did you mean {seen[plain]}? give a class the same name in every split",
            )
        seen[plain] = name


def _refuse_untrained(root: Path, samples: SampleTable) -> None:
    names, number = samples.targets.numbered()
    learned = np.unique(number[samples.splits.equal("train") | samples.splits.equal("")])
    odd = np.flatnonzero(~np.isin(number, learned))
    if len(learned) and len(odd):
        sample, trained = samples[int(odd[0])], [names[place] for place in learned.tolist()]
        near = did_you_mean(
            sample.target, trained, otherwise="give a class the same name everywhere"
        )
        raise MedvisionError(
            f"{sample.split} has the class {sample.target}, but train does not",
            where=str(root / PurePosixPath(sample.path).parent),
            hint=near,
        )


def _chosen(class_names: Sequence[str], found: list[str]) -> list[str]:
    chosen = list(class_names)
    where, them = "data.class_names", ", ".join(found)
    for name in chosen:
        if chosen.count(name) > 1:
            raise MedvisionError(f"{name} is listed twice", where=where, hint="list it once")
        if name not in found:
            raise MedvisionError(
                f"unknown class {name}",
                where=where,
                hint=did_you_mean(name, found, otherwise=f"its classes are {them}"),
            )
    missing = [name for name in found if name not in chosen]
    if missing:
        raise MedvisionError(
            f"expected every class of the data set, missing: {', '.join(missing)}",
            where=where,
            hint=f"list all of them, in the order of their indices: {them}",
        )
    return chosen
