"""Find the images of class folders, and report folders that are not a classification data set."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from medvision.command_line import data_keys
from medvision.console import counted
from medvision.data.discovery.folders import (
    Scan,
    images_in,
    is_image,
    split_by_names,
    subfolders,
)
from medvision.data.discovery.keys import FolderKeys, absolute, matches
from medvision.data.discovery.mask_folders import (
    folders_of_labels,
    folders_of_masks,
    mask_folder_pairs,
    masks_beside,
)
from medvision.data.readers.arrays import array_keys, array_labels, is_array_file
from medvision.data.samples import SampleTable, count_names, split_name, without_suffix
from medvision.data.splits.groups import captured
from medvision.errors import MedvisionError, did_you_mean
from medvision.types import IGNORE_INDEX

CLASS_LAYOUT = "expected FOLDER/<class>/*, FOLDER/{train,val,test}/<class>/*, or FOLDER/splits.csv"


_FEW_CLASSES = 8
"""Folders of which some are opened to see if they hold masks; masks lie beside few other ones."""


def scan_classes(root: Path, keys: FolderKeys | None = None) -> Scan:
    """List the images below each class folder, recording problems instead of raising them.

    Reads ``ROOT/<class>/*``, or ``ROOT/{train,val,test}/<class>/*`` if a folder of ``root`` is
    named after a split; deeper folders belong to their class. Names of all files may give splits,
    too. Masks in class folders, and class folders that hold the masks of another one, are left out
    with a note. With ``data.class_pattern``, folders are no classes.

    Args:
        root: The folder.
        keys: Keys of the layout; None for the defaults.

    Raises:
        MedvisionError: If a folder cannot be listed.
    """
    scan, keys = Scan(layout="class folders"), keys or FolderKeys()
    inside = [path for path in subfolders(root) if not keys.excludes(path.name)]
    arrays = _array_file(root, scan, keys, inside)
    if arrays is not None:
        return _scan_arrays(root, scan, arrays)
    if keys.class_pattern is not None:
        return _scan_named(root, scan, keys, keys.class_pattern)
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
        for part in _scan_folder(root, scan, split, folder, keys)
    ]
    if given:
        names = ", ".join(folder.name for _, folder in given)
        scan.layout = f"class folders in folders of the splits {names}"
    samples = SampleTable.joined(parts).by_path()
    scan.samples = samples if given else split_by_names(scan, samples)
    scan.images = scan.samples.paths
    return scan


_OF_PARTS = re.compile(
    r"images?|imgs?|pictures?|photos?|scans?|frames?|slices?|parts?|folds?|batch|data|(data)?sets?|"
    r"(train(val)?|test|val)(ing|set)?|valid(ation)?|dev|tr|ts|"
    r"patients?|subjects?|cases?|videos?|vid|sequences?|seq|series"
)
"""Words in names of folders that hold a part of the images, not those of a class."""


def are_parts(names: Sequence[str]) -> bool:
    """Return True if folders are named as parts of the images, such as ``train_images``.

    The names have such a word, and are equal without these words and without numbers.
    """
    if len(names) < 2:
        return False
    rests = set[str]()
    for name in names:
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        others = [word for word in map(str.lower, words) if not _OF_PARTS.fullmatch(word)]
        if len(others) == len(words):
            return False
        rests.add(" ".join(others))
    return len(rests) == 1


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
    _refuse_alike(root, found, Counter(samples.targets))
    _refuse_untrained(root, samples)
    return found if class_names is None else _chosen(class_names, found)


def are_numbered(names: Iterable[str]) -> bool:
    """Return True if names differ only by numbers, as those of patients, videos and parts."""
    return len({re.sub(r"\d+", "#", name) for name in names}) < 2


def _scan_named(root: Path, scan: Scan, keys: FolderKeys, pattern: str) -> Scan:
    """List the images whose path names the class; folders may name the split."""
    key = "data.class_pattern"
    files = images_in(root, root, scan, what="images", layout=CLASS_LAYOUT)
    files = _images_of(scan, root, root.name, [file for file in files if not keys.excludes(file)])
    names = captured(pattern, files, where=key)
    lacking = [file for file, name in zip(files, names, strict=True) if not name]
    if files and len(lacking) == len(files):
        raise MedvisionError(
            f"{pattern[:200]} matches no image; the first is {files[0]}",
            where=key,
            hint="it must match part of the path in data.root",
        )
    if lacking:
        what = f"{key} does not match {len(lacking)} of {len(files)} images: {count_names(lacking)}"
        scan.problem(what, root, "fix it, or leave these images out with data.exclude")
    tops = {folder.name: split_name(folder.name) or "" for folder in subfolders(root)}
    splits = [tops.get(file.partition("/")[0], "") for file in files]
    beside = [file for file, split in zip(files, splits, strict=True) if not split]
    if 0 < len(beside) < len(files):
        scan.problem(
            f"{counted(len(beside), 'image')} outside the folders of the splits:"
            f" {count_names(beside)}",
            root,
            "move them, or leave them out with data.exclude",
        )
    rows = zip(files, names, [""] * len(files), splits, strict=True)
    samples = SampleTable.of_rows(row for row in rows if row[1]).by_path()
    scan.samples = samples if any(splits) else split_by_names(scan, samples)
    scan.images, scan.layout = files, f"classes from {key}"
    return scan


def _array_file(root: Path, scan: Scan, keys: FolderKeys, inside: list[Path]) -> Path | None:
    """Return the npz file of images that a key names, or that lies alone in the root."""
    if keys.images is not None:
        if not keys.images.endswith(".npz"):
            raise MedvisionError(
                "data.images names the images of masks, or an npz file of images with classes",
                where="data.images",
                hint="set data.root to the folder of the class folders",
            )
        return matches(root, keys.images, key="data.images")[0][0]
    if inside:
        return None
    found = [path for path in sorted(root.glob("*.npz")) if is_array_file(path)]
    if len(found) > 1:
        names = [path.name for path in found]
        scan.problem(
            f"{len(found)} files of images: {count_names(names)}",
            root,
            f"set {data_keys(images=names[0])} to read one of them",
            in_doubt=True,
        )
    return found[0] if found else None


def _scan_arrays(root: Path, scan: Scan, path: Path) -> Scan:
    """List the images of an npz file; their classes are its labels."""
    name = absolute(path).relative_to(absolute(root)).as_posix()
    tables = []
    for split, labels in array_labels(path).items():
        width = len(str(int(labels.max(initial=0))))
        tables.append(
            SampleTable.of_split_files(
                (f"{name}#{key}" for key in array_keys(path, stages=[split])),
                (f"{label:0{width}d}" for label in labels.tolist()),
                split,
            )
        )
    scan.layout = f"arrays of images and labels in {name}"
    scan.samples = SampleTable.joined(tables).by_path()
    scan.images = scan.samples.paths
    return scan


def _scan_folder(
    root: Path, scan: Scan, split: str, folder: Path, keys: FolderKeys
) -> Iterator[SampleTable]:
    """Yield the images of each class."""
    _refuse_strays(scan, folder)
    classes = _without_masks(root, scan, folder, keys)
    _doubt_level(root, scan, folder, classes)
    names = {path.name.lower() for path in classes}
    if not classes:
        empty = not any(folder.iterdir())
        scan.problem("the folder is empty" if empty else "no class folders", folder, CLASS_LAYOUT)
    elif are_parts([path.name for path in classes]):
        scan.problem(
            f"expected class folders, found parts of the images:"
            f" {count_names([path.name for path in classes])}",
            folder,
            "list the images with their classes in splits.csv, with the columns path and target; or"
            " set data.images and data.masks, or data.class_pattern",
            in_doubt=True,
        )
    elif {"images", "masks"} <= names:
        scan.problem(
            "expected class folders, found the folders images and masks of a segmentation set",
            folder,
            "choose a segmentation experiment, or another data.root",
            in_doubt=True,
        )
    held = set[frozenset[str]]()
    for path in classes:
        inside = [deeper.name for deeper in subfolders(path) if split_name(deeper.name)]
        if inside:  # as a single class, it would mix train and test
            scan.problem(
                f"expected class folders, found split folders ({', '.join(inside)}) in {path.name}",
                folder,
                f"did you mean {data_keys(root=path)}? {CLASS_LAYOUT}",
            )
        start = path.relative_to(root).as_posix()
        files = images_in(root, path, scan, what="images", layout=CLASS_LAYOUT)
        files = [file for file in files if not keys.excludes(f"{start}/{file}")]
        files = _images_of(scan, path, start, files)
        held.add(frozenset(without_suffix(file) for file in files))
        yield SampleTable.of_split_files(
            (f"{start}/{file}" for file in files), [path.name] * len(files), split
        )
    same = sorted(held.pop()) if len(held) == 1 else []
    if len(classes) > 2 and are_numbered(names) and same and not re.search(r"\d", "".join(same)):
        scan.problem(
            f"numbered folders hold files of the same names, as those of patients do:"
            f" {count_names(same)} in {count_names([path.name for path in classes])}",
            folder,
            f"set data.class_pattern if paths tell the classes"
            f" ({data_keys(class_pattern=_outer(root, folder))} reads these folders)"
            + (
                f", or {data_keys(images=f'*/{same[0]}.*', masks=f'*/{same[-1]}.*')}"
                if len(same) > 1
                else ""
            ),
            in_doubt=True,
        )


def _without_masks(root: Path, scan: Scan, folder: Path, keys: FolderKeys) -> list[Path]:
    """Return the class folders, without those that hold the masks of another one."""
    start = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    classes = [path for path in subfolders(folder) if not keys.excludes(start + path.name)]
    names = {path.name.lower() for path in classes}
    masks = {} if {"images", "masks"} <= names else folders_of_masks(classes)
    if not masks:
        _doubt_labels(scan, folder, classes, keys)
        return classes
    pairs = ", ".join(f"{images.name} and {other.name}" for other, images in masks.items())
    if len(classes) - len(masks) < 2:
        scan.problem(
            f"expected class folders, found images and masks under the same names ({pairs})",
            folder,
            "choose a segmentation experiment, or set data.task=segmentation",
            in_doubt=True,
        )
        scan.holds_masks = True
        return classes
    left = count_names([start + other.name for other in masks])
    scan.notes.append(f"left out {left}: masks of the images in another folder ({pairs})")
    scan.other = "images and their masks: data.task=segmentation"
    return [path for path in classes if path not in masks]


def _doubt_level(root: Path, scan: Scan, folder: Path, classes: list[Path]) -> None:
    """Record folders that may not be the classes, because of their names or of folders inside."""
    inside = {one: [path.name for path in subfolders(one)] for one in classes}
    if any(split_name(name) for names in inside.values() for name in names):
        return
    names = [one.name for one in classes]
    start = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    above = "^" + "[^/]+/" * start.count("/")
    outer = data_keys(class_pattern=_outer(root, folder))
    for one in classes:
        nested = len(inside[one]) > 1 and {*inside[one]} <= {*names} - {one.name}
        if nested or _NO_CLASS.fullmatch(one.name.lower()):
            what = (
                f"{one.name} holds the folders {count_names(inside[one])}, as the folder around it"
                if nested
                else f"{one.name} seems to hold images without a known class"
            )
            hint = f"set {data_keys(exclude=start + one.name)}, or {outer} to read it as a class"
            scan.problem(what, folder, hint, in_doubt=True)
    counts = Counter(name for names in inside.values() for name in names)
    numbered = are_numbered(names) and max(counts.values(), default=0) > 1
    same = [name for name in sorted(counts) if numbered or not re.search(r"\d", name)]
    everywhere = len({frozenset(names) for names in inside.values()}) == 1
    if len(classes) < 2 or len(same) < 2 or not all(inside.values()):
        return
    if any(mask_folder_pairs(one) or folders_of_masks(subfolders(one)) for one in classes):
        return  # images and their masks
    if numbered or everywhere:
        deeper = {"class_pattern": f"{above}[^/]+/([^/]+)/"}
        if numbered:
            deeper["group_pattern"] = f"{above}([^/]+)/"
        scan.problem(
            f"{count_names(names)} hold the folders {count_names(same)}, which may be the classes",
            folder,
            f"set {data_keys(**deeper) if numbered else data_keys(root=classes[0])}, or {outer} to"
            " read the outer ones as classes",
            in_doubt=True,
        )
    elif len(same) == len(counts):
        deeper_keys = data_keys(class_pattern=f"{above}[^/]+/([^/]+)/")
        scan.inner = f"classes {count_names(same)}: {deeper_keys}"


def _outer(root: Path, folder: Path) -> str:
    """Return the pattern of the names of the folders inside a folder."""
    return f"^{'[^/]+/' * len(folder.relative_to(root).parts)}([^/]+)/"


_NO_CLASS = re.compile(r"pred(ict(ion)?s?)?|unlabell?ed|no[ _-]?labels?|inference")
"""Names of folders of images whose class is to be found, beside folders of classes."""


def _doubt_labels(scan: Scan, folder: Path, classes: list[Path], keys: FolderKeys) -> None:
    """Record a class of pictures that look like masks, under other names than the images."""
    if not 1 < len(classes) <= _FEW_CLASSES:
        return
    labels = folders_of_labels(classes)
    if not labels or len(labels) == len(classes):
        return
    names = count_names([path.name for path in labels])
    what = f"{names} holds only pictures of a few levels, as masks do, other folders photographs"
    if keys.task is not None:
        scan.notes.append(f"{what}; it is read as a class because of data.task")
        return
    others = next(path for path in classes if path not in labels)
    scan.holds_masks = True
    scan.problem(
        what,
        folder,
        f"set {data_keys(images=others.name, masks=labels[0].name)}, with data.mask_pattern and"
        " data.mask_template if their names differ; or data.task=classification",
        in_doubt=True,
    )


def _images_of(scan: Scan, folder: Path, start: str, files: list[str]) -> list[str]:
    """Return the files of a class folder without the masks among them, which are noted."""
    deep = any("/" in file for file in files)
    inside = (
        [masks for _, _, masks in mask_folder_pairs(folder) if masks is not None] if deep else []
    )
    inside += folders_of_masks(subfolders(folder)) if deep else ()
    places = [f"{masks.relative_to(folder).as_posix()}/" for masks in inside]
    masks = {file for file in files if file.startswith(tuple(places))} if places else set()
    if not masks:
        masks = {mask for ends in masks_beside(folder, files).values() for _, mask in ends}
    if not masks:
        return files
    scan.notes.append(
        f"left out {counted(len(masks), 'mask')} in {start}: {count_names(sorted(masks), shown=2)}"
    )
    scan.other = "images and their masks: data.task=segmentation"
    return [file for file in files if file not in masks]


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
    return (
        f"did you mean {data_keys(root=folder)}? {CLASS_LAYOUT}"
        if inside and folder != root
        else None
    )


def _refuse_alike(root: Path, found: list[str], counts: Mapping[str, int]) -> None:
    seen: dict[str, str] = {}
    for name in found:
        plain = re.sub(r"[\s_-]+", " ", name).strip().casefold()
        if plain in seen:
            pair = (seen[plain], name)
            shown = " and ".join(f"{one} ({counts[one]})" for one in pair)
            raise MedvisionError(
                f"the classes {shown} differ only by case or spaces",
                where=str(root),
                hint=f"did you mean {max(pair, key=counts.__getitem__)}? give a class the same name"
                " everywhere",
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
