"""Pair the images of folders with their masks, and record inconsistencies."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path, PurePosixPath

import numpy as np

from medvision.command_line import data_keys
from medvision.console import counted
from medvision.data.discovery.folders import (
    SEGMENTATION_LAYOUT,
    Scan,
    divide,
    images_in,
    is_image,
    list_images,
    only_content,
    split_by_names,
    splits_named_in,
    subfolders,
)
from medvision.data.discovery.keys import FolderKeys, absolute, matches
from medvision.data.discovery.label_pictures import show_labels, shown_in
from medvision.data.readers.annotations import is_coco, read_coco, read_labelme
from medvision.data.samples import (
    JOIN,
    ROI,
    SampleTable,
    StringColumn,
    count_names,
    files_in,
    split_name,
    without_suffix,
)
from medvision.errors import MedvisionError

_IMAGES = re.compile(
    r"images?|imgs?|originals?|data|jpe?gs?|pngs?|tiffs?|tifs?|bmps?|pictures|photos|inputs?|scans|"
    r"frames|rgb"
)
_MASKS = re.compile(
    r"masks?|labels?|annotations?|gts?|ground ?truths?|(1st|2nd)?manual\d?|seg(mentation)?s?"
)
"""Names of folders without case, spaces, hyphens and underscores."""

_TAIL = re.compile(
    r"(binary)?(masks?|seg|segm|segmented|segmentations?|labels?|gt|groundtruth|lesions?|anno|"
    r"annot|annotations?|contours?|manual|1sth?o?|2ndh?o?|\d+(st|nd|rd|th)(ho|manual)?)\d*",
    re.IGNORECASE,
)
"""Ends of names of masks beside their images, without spaces, hyphens and underscores."""

_PERSON = re.compile(
    r"\d+(st|nd|rd|th)(ho|manual)?|ho\d*|.*(manual|annot|rater|reader|expert|observer|doctor|grader)"
    r".*",
    re.IGNORECASE,
)
"""Ends of names that tell annotators from parts such as lesions."""

_DEPTH = 3
"""Levels of folders above images and masks that are searched."""

Files = list[str]
"""Paths relative to the root, with forward slashes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Images that are paired with masks of their own.

    Attributes:
        where: Folder, for messages.
        split: Given split, or empty.
        images: Paths of the images.
        masks: Paths of the masks; None if there is no folder of masks.
        image_stems: Name of each image for matching: path below its folder, without extension.
        mask_stems: The same for the masks.
    """

    where: Path
    split: str
    images: Files
    masks: Files | None
    image_stems: list[str]
    mask_stems: list[str]


def plain(name: str) -> str:
    """Return a name in lower case, without spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def scan_segmentation(root: Path, keys: FolderKeys | None = None) -> Scan:
    """Pair the images below ``root`` with their masks, recording problems instead of raising them.

    Args:
        root: Folder that paths are relative to.
        keys: Keys of the layout; None for the defaults.

    Raises:
        MedvisionError: If a folder cannot be listed, or a key does not match.
    """
    scan, keys = Scan(), keys or FolderKeys()
    of_shapes = keys.masks is not None and _names_shapes(root, keys)
    if (keys.images is None) != (keys.masks is None) and not of_shapes:
        lacking = "data.masks" if keys.masks is None else "data.images"
        raise MedvisionError(
            "expected data.images and data.masks together, got one of them",
            where=lacking,
            hint=f"set {lacking} too",
        )
    tables, found = [], []
    if of_shapes:
        annotated = _annotated(root, scan, keys, _json_files(root, keys))
        places: list[_Place] = []
        if annotated is not None:
            tables, found = [annotated], [annotated.paths]
    elif keys.images is not None:
        places = list(_named_places(root, scan, keys))
        scan.layout = f"images in {keys.images}, masks in {keys.masks}"
    else:
        places = _found_places(root, scan, keys)
        if scan.shapes is not None:
            tables, found = [scan.shapes], [scan.shapes.paths]
    for place in places:
        paired = _pair(scan, place, keys)
        tables.append(paired)
        same = len(paired) == len(place.images)
        found.append(paired.paths if same else StringColumn.of(place.images))
    if not tables:
        return scan
    samples = tables[0] if len(tables) == 1 else SampleTable.joined(tables)
    samples = _splits_inside(scan, samples)
    if keys.roi is not None:
        samples = _with_views(root, scan, samples, keys)
    scan.samples = samples.by_path()
    names = found[0] if len(found) == 1 else StringColumn.of(chain.from_iterable(found))
    scan.images = names if names.ascends() else names.select(names.sorted_rows())
    return scan


def masks_below(folder: Path) -> set[str]:
    """Return the masks of a folder that is recognised as images and their masks, else nothing.

    Raises:
        MedvisionError: If a folder cannot be listed.
    """
    scan = scan_segmentation(folder)
    several = (mask for masks in scan.annotators.values() for mask in masks.values())
    return {*chain.from_iterable(map(files_in, scan.samples.targets)), *several}


def mask_folder_pairs(
    root: Path, keys: FolderKeys | None = None
) -> list[tuple[str, Path, Path | None]]:
    """Return split (or empty), images folder and masks folder (or None) by the names of folders."""
    return _pairs_below(root, root, Scan(), "", 0, keys or FolderKeys())


def masks_beside(folder: Path, files: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the images of a folder that have masks beside them, with end and name of each mask.

    A mask is named as its image and a further word, and shows labels where the image does not.

    Args:
        folder: Folder of the files.
        files: Files below the folder.
    """
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        by_folder[file.rpartition("/")[0]].append(file)
    named: dict[str, list[tuple[str, str]]] = {}
    every = [_stem(file.rpartition("/")[2]) for file in files]
    if len(by_folder) > 1 and len(set(every)) == len(every):  # names tell files apart everywhere
        by_folder = defaultdict(list, {"": list(files)})
    for inside in by_folder.values():
        stems = {_stem(file.rpartition("/")[2]): file for file in inside}
        rests = {stem: end for stem in stems if (end := _end_of(stem, stems)) is not None}
        rests |= _by_heads(stems) | _by_kind(stems)
        for stem in rests:
            image, tail = stem, ""
            while image in rests:  # of a_mask_1.png the image is a.png, not a_mask.png
                image, last = rests[image]
                tail = f"{last}_{tail}".rstrip("_")
            named.setdefault(stems[image], []).append((tail, stems[stem]))
    found: dict[str, list[tuple[str, str]]] = {}
    by_word: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for image, ends in named.items():
        for tail, mask in ends:
            by_word[re.sub(r"\d+$", "", plain(tail))].append((image, tail, mask))
    for rows in by_word.values():
        seen = show_labels([folder / m for *_, m in rows], [folder / i for i, *_ in rows])
        known = all(_TAIL.fullmatch(plain(tail)) for _, tail, _ in rows)
        if seen or (seen is None and known):
            for image, tail, mask in rows:
                found.setdefault(image, []).append((tail, mask))
    return {image: sorted(ends) for image, ends in found.items()}


_MASK_HEAD = re.compile(r"(masks?|labels?|gts?|seg(mentation)?s?)[\s_-]+(.+)", re.IGNORECASE)
_IMAGE_HEAD = re.compile(r"(images?|imgs?|originals?|pictures?|photos?)[\s_-]+(.+)", re.IGNORECASE)
"""Beginnings of names, as in ``mask_1.png`` beside ``img_1.png``."""


def _by_heads(stems: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the stems that begin with a word for masks, with that of the image and the word."""
    images, masks = defaultdict[str, list[str]](list), dict[str, tuple[str, str]]()
    for stem in stems:
        if (mask := _MASK_HEAD.fullmatch(stem)) is not None:
            masks[stem] = mask[3], mask[1]
        else:
            image = _IMAGE_HEAD.fullmatch(stem)
            images[stem if image is None else image[2]].append(stem)
    return {
        stem: (images[rest][0], word)
        for stem, (rest, word) in masks.items()
        if len(images.get(rest, ())) == 1
    }


def _by_kind(stems: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the stems that are only words for masks, as ``mask`` beside the only other stem."""
    masks = [stem for stem in stems if _MASKS.fullmatch(plain(stem).rstrip("0123456789"))]
    images = [stem for stem in stems if stem not in masks]
    return {stem: (images[0], stem) for stem in masks} if len(images) == 1 else {}


def _found_places(root: Path, scan: Scan, keys: FolderKeys) -> list[_Place]:
    """Find images and masks by the names of folders and files, or by what the files show."""
    folders = _pairs_below(root, root, scan, "", 0, keys)
    if any(masks for _, _, masks in folders):
        bare = [images for split, images, masks in folders if masks is None and not split]
        if bare:
            folders = [pair for pair in folders if pair[1] not in bare]
            _note_bare(root, scan, bare)
        inside = [image.relative_to(root).as_posix() for _, image, _ in folders]
        one_each = _one_image_each(root, scan, folders, keys)
        if one_each:
            return one_each
        _refuse_copies(root, scan, folders)
        above = sorted({str(PurePosixPath(path).parent) for path in inside} - {"."})
        scan.layout = _layout_of(folders) + (f" in {count_names(above)}" if above else "")
        return [_folder_place(root, scan, *folder, keys) for folder in folders]
    files = list(keys.kept(list_images(root)[0]))
    beside = masks_beside(root, files)
    if beside:
        scan.layout = "masks beside the images"
        return _beside_places(root, files, beside)
    annotated = _annotated(root, scan, keys, _json_files(root, keys))
    if annotated is not None:
        scan.shapes = annotated
        return []
    shown = _folders_that_show_masks(root, scan, keys)
    if shown:
        scan.layout = _layout_of(shown)
        scan.notes.append(
            f"{count_names([p.name for _, _, p in shown if p])} is read as the masks of"
            f" {count_names([p.name for _, p, _ in shown])}: the files have the same names, and"
            " few values each"
        )
        _note_bare(root, scan, _unused(root, shown, keys))
        return [_folder_place(root, scan, *folder, keys) for folder in shown]
    if folders:
        for _, images, _ in folders:
            scan.problem("no masks folder beside images", images, _layout_hint(root))
        return [_folder_place(root, scan, *folder, keys) for folder in folders]
    found = only_content(root)
    what = f"expected images and their masks, found {found}" if found else "no images folder"
    scan.problem(what, root, _layout_hint(root))
    return []


def _layout_of(pairs: Iterable[tuple[str, Path, Path | None]]) -> str:
    words = (f"{images.name} + {masks.name}" for _, images, masks in pairs if masks)
    return f"folders {', '.join(dict.fromkeys(words))}"


def _note_bare(root: Path, scan: Scan, bare: Sequence[Path]) -> None:
    if bare:
        names = count_names([path.relative_to(root).as_posix() for path in bare], shown=2)
        scan.notes.append(
            f"left out {counted(len(bare), 'folder')} of images without masks: {names}"
        )


def _unused(
    root: Path, pairs: Iterable[tuple[str, Path, Path | None]], keys: FolderKeys
) -> list[Path]:
    """Return the folders of pictures in the root that hold nothing of the pairs."""
    used = {path for _, images, masks in pairs for path in (images, masks) if path is not None}
    outer = {root / path.relative_to(root).parts[0] for path in used}
    return _with_pictures(path for path in _kept_folders(root, root, keys) if path not in outer)


def _layout_hint(root: Path) -> str:
    inside = list(subfolders(root))
    there = f"; the folder has {count_names([folder.name for folder in inside])}" if inside else ""
    if sum(bool(list_images(folder)[0]) for folder in inside) > 1:
        there += "; if these are classes, use experiment=classification"
    return f"{SEGMENTATION_LAYOUT}, or set data.images and data.masks{there}"


def _pairs_below(
    root: Path, place: Path, scan: Scan, split: str, depth: int, keys: FolderKeys
) -> list[tuple[str, Path, Path | None]]:
    """Return (split, images, masks or None) of a folder, or else of the folders below it."""
    inside = _kept_folders(root, place, keys)
    given = [] if split else [(name, path) for path in inside if (name := split_name(path.name))]
    found: list[tuple[str, Path, Path | None]] = []
    for name, path in given:
        pairs = _pairs_here(root, path, scan, name, keys)
        if not pairs and depth < _DEPTH:
            deeper = _pairs_below(root, path, scan, name, depth + 1, keys)
            pairs = [pair for pair in deeper if pair[2] is not None]
        found += pairs
    here = _pairs_here(root, place, scan, split, keys)
    if found:
        if here:
            scan.notes.append(
                f"ignored the folder {here[0][1].name} beside the folders of the given splits"
            )
        return found
    if here and (here[0][2] is not None or depth == 0):
        return here
    if depth < _DEPTH:
        for path in inside:
            name = split or split_name(path.name) or ""
            found += _pairs_below(root, path, scan, name, depth + 1, keys)
    return found or here


def _kept_folders(root: Path, place: Path, keys: FolderKeys) -> list[Path]:
    """Return the folders of a folder that are not excluded."""
    inside = subfolders(place)
    if not keys.exclude:
        return inside
    return [path for path in inside if not keys.excludes(path.relative_to(root).as_posix())]


def _pairs_here(
    root: Path, place: Path, scan: Scan, split: str, keys: FolderKeys
) -> list[tuple[str, Path, Path | None]]:
    """Return the folder of images with the folder of masks beside it, both by name."""
    inside = _kept_folders(root, place, keys)
    images = [path for path in inside if _IMAGES.fullmatch(plain(path.name))]
    masks = [path for path in inside if _MASKS.fullmatch(plain(path.name))]
    masks = [path for path in masks if path.name.lower() == "masks" or _with_pictures([path])]
    if not images:
        return []
    canonical = {path.name.lower(): path for path in inside}
    if "images" in canonical and "masks" in canonical:
        others = _with_pictures(path for path in masks if path.name.lower() != "masks")
        if others:
            found = count_names([path.name for path in others])
            scan.notes.append(f"ignored beside {canonical['masks'].name}: {found}; see data.masks")
        return [(split, canonical["images"], canonical["masks"])]
    if not masks:
        return [(split, canonical["images"], None)] if "images" in canonical else []
    images = _with_pictures(images)
    if len(images) > 1:
        names = [path.name for path in images]
        scan.problem(
            f"several folders may hold the images: {', '.join(names)}",
            place,
            "set data.images and data.masks, for example"
            f" {data_keys(images=names[0], masks=masks[0].name)}",
            in_doubt=True,
        )
    if not images:
        return []
    others = [path for path in inside if path not in images]
    candidates = [path for path in others if _fits(images[0], path)]
    candidates += [p for p in _with_pictures(masks) if p not in candidates]
    if len(candidates) > 1:
        names = sorted(path.name for path in candidates)
        prefix = "*/" if split_name(place.name) else ""
        scan.problem(
            f"several folders may hold the masks of {images[0].name}: {', '.join(names)}",
            place,
            f"set {data_keys(images=prefix + images[0].name, masks=prefix + names[0])}, and"
            " data.roi for a field of view",
            in_doubt=True,
        )
    return [(split, images[0], (candidates or masks)[0])]


def _with_pictures(folders: Iterable[Path]) -> list[Path]:
    """Return the folders with an image file at any depth."""
    return [folder for folder in folders if next(_pictures_in(folder), None) is not None]


def _pictures_in(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(files) if is_image(name))


_MOST_FOLDERS = 30
"""Folders side by side that are compared to find masks among them; masks have few beside them."""

_FIRST = 2000
"""Files of a folder whose names are compared with those of another."""


def _fits(images: Path, other: Path) -> bool:
    """Return True if a folder shows labels under the names of the images."""
    first, second = _first(images), _first(other)
    return _share_of_names(first, second) > 0.5 and bool(show_labels(second, first))


def _first(folder: Path) -> list[Path]:
    return list(islice(_pictures_in(folder), _FIRST))


def _share_of_names(images: Sequence[Path], others: Sequence[Path]) -> float:
    """Share of the first of some files that are named after an image, with any end."""
    stems = {_stem(path.name): "" for path in images}
    found = [_stem(path.name) for path in others[:200]]
    if not found or not stems:
        return 0.0
    return sum(stem in stems or _end_of(stem, stems) is not None for stem in found) / len(found)


def folders_of_masks(folders: Sequence[Path]) -> dict[Path, Path]:
    """Return the folders that show labels under the names of the images of another one.

    Args:
        folders: Folders side by side.

    Returns:
        The folder of images of each such folder.
    """
    if not 1 < len(folders) <= _MOST_FOLDERS:
        return {}
    files = {folder: _first(folder) for folder in folders}
    shown = {folder: shown_in(paths) for folder, paths in files.items()}
    found: dict[Path, Path] = {}
    for other in (folder for folder in folders if shown[folder].labels):
        for images in (folder for folder in folders if shown[folder].pictures):
            alike = images not in found and images != other
            if alike and _share_of_names(files[images], files[other]) > 0.5:
                found[other] = images
                break
    return found


def folders_of_labels(folders: Sequence[Path]) -> list[Path]:
    """Return the folders that show labels where another one, or more, shows photographs."""
    shown = {folder: shown_in(_first(folder)) for folder in folders}
    if not any(one.pictures and not one.labels for one in shown.values()):
        return []
    return [folder for folder, one in shown.items() if one.labels]


def _folders_that_show_masks(
    root: Path, scan: Scan, keys: FolderKeys
) -> list[tuple[str, Path, Path | None]]:
    """Pair folders by their files: in the folders of the splits, or else below the root."""
    splits = [(name, path) for path in subfolders(root) if (name := split_name(path.name))]
    return _shown_in(root, scan, splits, keys) or _shown_in(root, scan, [("", root)], keys)


def _shown_in(
    root: Path, scan: Scan, places: Iterable[tuple[str, Path]], keys: FolderKeys
) -> list[tuple[str, Path, Path | None]]:
    found: list[tuple[str, Path, Path | None]] = []
    for split, place in places:
        by_images: defaultdict[Path, list[Path]] = defaultdict(list)
        for masks, images in folders_of_masks(_kept_folders(root, place, keys)).items():
            by_images[images].append(masks)
        for images, several in by_images.items():
            if len(several) > 1:
                names = ", ".join(path.name for path in several)
                scan.problem(
                    f"several folders may hold the masks of {images.name}: {names}",
                    place,
                    f"set {data_keys(images=images.name, masks=several[0].name)}",
                    in_doubt=True,
                )
            own = split or split_name(images.name) or ""
            found.append((own, _unwrapped(images), _unwrapped(several[0])))
    return found


def _unwrapped(folder: Path) -> Path:
    """Return the innermost of folders with one name whose pictures are all there: train/train."""
    while [path.name for path in subfolders(folder)] == [folder.name] and not any(
        is_image(path.name) for path in folder.iterdir()
    ):
        folder /= folder.name
    return folder


def _folder_place(
    root: Path, scan: Scan, split: str, images: Path, masks: Path | None, keys: FolderKeys
) -> _Place:
    """List a folder of images and a folder of masks."""
    of_images, image_stems = _listed(root, images, scan, keys, what="images")
    of_masks, mask_stems = _listed(root, masks, scan, keys, what="masks") if masks else (None, [])
    return _Place(
        where=masks or images,
        split=split,
        images=of_images,
        masks=of_masks,
        image_stems=image_stems,
        mask_stems=mask_stems,
    )


def _listed(
    root: Path, folder: Path, scan: Scan, keys: FolderKeys, *, what: str
) -> tuple[Files, list[str]]:
    files = images_in(root, folder, scan, what=what, layout=SEGMENTATION_LAYOUT)
    start = folder.relative_to(root).as_posix()
    if keys.exclude:
        files = [file for file in files if not keys.excludes(f"{start}/{file}")]
    return [f"{start}/{file}" for file in files], [_stem(file) for file in files]


def _one_image_each(
    root: Path, scan: Scan, folders: Sequence[tuple[str, Path, Path | None]], keys: FolderKeys
) -> list[_Place]:
    """Read folders that hold one image and its masks, of other names; empty if they hold more."""
    if len(folders) < 2:
        return []
    by_split: defaultdict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]]
    by_split, other_names = defaultdict(lambda: ([], [])), False
    for split, image_folder, mask_folder in folders:
        here = list_images(image_folder)[0]
        if len(here) != 1 or mask_folder is None:
            return []
        start = image_folder.parent.relative_to(root).as_posix()
        own = list_images(mask_folder)[0]
        other_names |= [_stem(mask) for mask in own] != [_stem(here[0])]
        images, masks = by_split[split]
        images.append((f"{start}/{image_folder.name}/{here[0]}", start))
        masks += [(f"{start}/{mask_folder.name}/{m}", f"{start}/{_stem(m)}") for m in own]
    if not other_names:
        return []
    names = sorted({f"{i.name} + {m.name}" for _, i, m in folders if m})
    scan.layout = f"one folder per image: {', '.join(names)} in {len(folders)} folders"
    places = []
    for split, (images, masks) in sorted(by_split.items()):
        images = [row for row in images if not keys.excludes(row[0])]
        masks = [row for row in masks if not keys.excludes(row[0])]
        places.append(
            _Place(
                where=root,
                split=split,
                images=[path for path, _ in images],
                masks=[path for path, _ in masks],
                image_stems=[stem for _, stem in images],
                mask_stems=[stem for _, stem in masks],
            )
        )
    return places


def _refuse_copies(
    root: Path, scan: Scan, folders: Sequence[tuple[str, Path, Path | None]]
) -> None:
    """Record folders that hold the same names in two file formats: each image would count twice."""
    known: list[tuple[str, set[str], set[str], Path]] = []
    for split, images, _ in folders:
        files = list_images(images)[0]
        stems = {_stem(file) for file in files}
        kinds = {PurePosixPath(file).suffix.lower() for file in files}
        for before, others, formats, place in known:
            alike = before == split and len(stems & others) * 10 >= 9 * max(len(stems), len(others))
            if alike and not kinds & formats and stems:
                one, other = (p.parent.relative_to(root).as_posix() for p in (place, images))
                scan.problem(
                    f"{one} and {other} hold files of the same names in two formats",
                    root,
                    f"set {data_keys(root=place.parent)}, or {data_keys(exclude=other)}",
                    in_doubt=True,
                )
                return
        known.append((split, stems, kinds, images))


def _beside_places(
    root: Path, files: Files, beside: Mapping[str, list[tuple[str, str]]]
) -> list[_Place]:
    masks = {mask for ends in beside.values() for _, mask in ends}
    by_split: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        splits = (split_name(part) for part in file.split("/")[:-1])
        by_split[next(filter(None, splits), "")].append(file)
    if len(by_split) > 1 and "" in by_split:
        by_split = defaultdict(list, {"": files})  # only some of the files lie in split folders
    places = []
    for split, inside in sorted(by_split.items()):
        images = [file for file in inside if file not in masks]
        own = [file for file in inside if file in masks]
        names = [_stem(file.rpartition("/")[2]) for file in inside]
        short = len(set(names)) == len(names)
        stems = {f: n if short else _stem(f) for f, n in zip(inside, names, strict=True)}
        for image in set(inside).intersection(beside):
            for end, mask in beside[image]:
                if plain(stems[mask].rpartition("/")[2]) == plain(end):  # mask.png, of any image
                    stems[mask] = f"{stems[image]}_{end}"
        places.append(
            _Place(
                where=root,
                split=split,
                images=images,
                masks=own,
                image_stems=[stems[file] for file in images],
                mask_stems=[stems[file] for file in own],
            )
        )
    return places


def _named_places(root: Path, scan: Scan, keys: FolderKeys) -> Iterator[_Place]:
    """Read the folders or files that ``data.images`` and ``data.masks`` name."""
    images = _named_files(root, keys.images or "", keys, key="data.images")
    masks = _named_files(root, keys.masks or "", keys, key="data.masks")
    own = {path for path, _ in masks}
    images = [(path, stem) for path, stem in images if path not in own]
    for what, files, text in (("images", images, keys.images), ("masks", masks, keys.masks)):
        if not files:
            scan.problem(f"no {what} in {text}", root, f"set data.{what} to their folder or a glob")
    folders = {stem.rpartition("/")[0] for _, stem in images}
    others = {stem.rpartition("/")[0] for _, stem in masks}
    if not folders & others:  # folders differ: names alone must do, where they occur once
        short = [
            [(path, stem.rpartition("/")[2]) for path, stem in files] for files in (images, masks)
        ]
        if all(len({stem for _, stem in files}) == len(files) for files in short):
            images, masks = short
    by_split: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, stem in images:
        splits = (split_name(part) for part in path.split("/")[:-1])
        by_split[next(filter(None, splits), "")].append((path, stem))
    if "" in by_split and len(by_split) > 1:
        by_split = defaultdict(list, {"": images})
    for split, inside in sorted(by_split.items()):
        within = masks
        if len(by_split) > 1:
            of_split = [
                (path, stem)
                for path, stem in masks
                if any(split_name(part) == split for part in path.split("/")[:-1])
            ]
            within = of_split or masks
        yield _Place(
            where=root,
            split=split,
            images=[path for path, _ in inside],
            masks=[path for path, _ in within],
            image_stems=[stem for _, stem in inside],
            mask_stems=[stem for _, stem in within],
        )


def _named_files(root: Path, text: str, keys: FolderKeys, *, key: str) -> list[tuple[str, str]]:
    """Return path and stem of each image file that a key names; stems hold matched folders."""
    found: dict[str, str] = {}
    base = absolute(root)
    for place, caught in matches(root, text, key=key):
        if place.is_dir():
            above = "/".join(caught)
            for file in list_images(place)[0]:
                path = (place / file).relative_to(base).as_posix()
                found[path] = _stem(f"{above}/{file}" if above else file)
        elif is_image(place.name):
            path = place.relative_to(base).as_posix()
            above = "/".join(caught[:-1])
            found[path] = _stem(f"{above}/{place.name}" if above else place.name)
    return [(path, stem) for path, stem in sorted(found.items()) if not keys.excludes(path)]


def _pair(scan: Scan, place: _Place, keys: FolderKeys) -> SampleTable:
    """Return the images with their masks, relative to the root."""
    _refuse_joints(scan, place)
    same_images = _repeated(scan, place.where, place.images, place.image_stems, what="images")
    masks = place.masks or []
    expected = keys.mask_stems(place.image_stems)
    if place.masks and place.images and not keys.names_masks:
        several = _several(place)
        if several is not None:
            return _merged(scan, place, several, keys)
    same_masks = _repeated(scan, place.where, masks, place.mask_stems, what="masks")
    mask_of = dict(zip(reversed(place.mask_stems), reversed(masks), strict=True))
    taken: set[str] = set()
    without_mask, paired, targets = [], [], []
    looked_for = ""
    num_stems = len(place.images) - sum(len(names) - 1 for names in same_images.values())
    rows = zip(place.images, place.image_stems, expected, strict=True)
    for file, stem, name in rows:
        if stem in same_images and same_images[stem][0] != file:
            continue
        mask = mask_of.get(name) if keys.mask_pattern else mask_of.pop(name, None)
        if mask is None:
            without_mask.append(file)
            looked_for = looked_for or name
        elif stem not in same_images and name not in same_masks:
            taken.add(name)
            paired.append(file)
            targets.append(mask)
    for name in taken:
        mask_of.pop(name, None)
    orphans = ""
    if mask_of and place.masks is not None and place.images:
        left = [name for stem, file in mask_of.items() for name in same_masks.get(stem, [file])]
        orphans = f"no image for {counted(len(left), 'mask')}: {count_names(sorted(left))}"
        scan.notes.append(orphans)
    shifted = _shifted(place) if without_mask and paired else ""
    most_fit = len(paired) > len(without_mask)
    if without_mask and paired and keys.on_error == "skip" and not shifted:
        _note_skipped(scan, without_mask, num_stems)
    elif without_mask and place.masks is not None:
        what = f"no mask for {len(without_mask)} of {num_stems} images: {count_names(without_mask)}"
        if keys.names_masks and masks:
            other = min(mask_of.values(), default=masks[0])
            what += f"; {looked_for}.* was looked for, and there is {other}"
        elif orphans and paired:
            what += f"; {orphans}"
        leave = "leave these images out with data.on_error=skip" if paired else "remove the images"
        scan.problem(
            what,
            place.where,
            shifted
            or (None if most_fit else _suffix_hint(place.image_stems[:5], mask_of))
            or "a mask needs the file name of its image, without suffix: add the"
            f" masks, or {leave}; for other names set data.mask_suffix, or data.mask_pattern and"
            " data.mask_template",
        )
    if keys.annotator is not None and targets:
        scan.problem(
            "data.annotator chooses one of several masks, but each image has one",
            place.where,
            "leave data.annotator out",
        )
    if targets:
        how = "the same stem"
        if keys.mask_pattern is not None:
            how = f"the stem with {keys.mask_pattern} replaced by {keys.mask_template}"
        elif keys.mask_suffix:
            how = f"the stem and {keys.mask_suffix}"
        scan.pairing = scan.pairing or f"the mask of an image has {how}"
    return SampleTable.of_split_files(paired, targets, place.split)


def _note_skipped(scan: Scan, names: list[str], total: int) -> None:
    scan.notes.append(
        f"SKIPPED {len(names)} of {total} images because they have no mask and data.on_error=skip:"
        f" {count_names(names)}"
    )


def _refuse_joints(scan: Scan, place: _Place) -> None:
    """Record names that contain the separator of several masks."""
    odd = [name for name in place.masks or () if JOIN in name]
    if odd:
        scan.problem(
            f"{counted(len(odd), 'mask')} with {JOIN} in the name: {count_names(odd)}",
            place.where,
            "rename them",
        )


Ends = dict[str, list[tuple[str, str]]]
"""End of the name and path of each mask, by the stem of its image."""


def _several(place: _Place) -> Ends | None:
    """Return the masks whose names begin as those of their images; None if stems are equal."""
    stems, masks = dict.fromkeys(place.image_stems, ""), place.masks or []
    if any(stem in stems for stem in place.mask_stems):
        return None
    rules: tuple[Callable[[str], tuple[str, str] | None], ...] = (
        lambda stem: _end_of(stem, stems),
        lambda stem: _below(stem, stems),
    )
    for rule in rules:
        found: Ends = {}
        for stem, mask in zip(place.mask_stems, masks, strict=True):
            end = rule(stem)
            if end is not None:
                found.setdefault(end[0], []).append((end[1], mask))
        if len(found) * 2 > len(stems):
            return {stem: sorted(ends) for stem, ends in found.items()}
    return None


def _end_of(stem: str, stems: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the longest stem that another one begins with, and the rest without separators."""
    for length in range(len(stem) - 1, 0, -1):
        before, after = stem[length - 1], stem[length]
        if (after in " _-./" or (before.isdigit() and after.isalpha())) and stem[:length] in stems:
            rest = stem[length:].strip(" _-./()")
            return (stem[:length], rest) if rest else None
    return None


def _below(stem: str, stems: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the stem without one of its folders if it is an image's, and that folder."""
    parts = stem.split("/")
    for place in range(len(parts) - 1):
        rest = "/".join(parts[:place] + parts[place + 1 :])
        if rest in stems:
            return rest, parts[place]
    return None


def _merged(scan: Scan, place: _Place, found: Ends, keys: FolderKeys) -> SampleTable:
    """Pair images with the masks whose names begin as theirs, one or several."""
    same_images = _repeated(scan, place.where, place.images, place.image_stems, what="images")
    tails = Counter(tail for ends in found.values() for tail, _ in ends)
    most, known = max(len(ends) for ends in found.values()), list(tails)
    kinds: Counter[str] = Counter()
    for tail, count in tails.items():
        kinds[re.sub(r"\d+", "", plain(tail))] += count
    everywhere = all(count == len(found) for count in tails.values()) and len(known) < _FEW_NAMES
    persons = all(map(_PERSON.fullmatch, map(plain, known)))
    of_persons = most > 1 and (everywhere or persons)
    unclear = of_persons or (most > 1 and sum(count > 1 for count in kinds.values()) > 1)
    if unclear and keys.annotator is None and keys.mask_merge is None:
        scan.problem(
            f"each image has {most} masks: {count_names(known)}",
            place.where,
            f"set {data_keys(annotator=known[0])} to read one of them, or data.mask_merge=majority"
            " or union to combine them",
            in_doubt=True,
        )
    joined, paired, targets, without = 0, [], [], []
    for file, stem in zip(place.images, place.image_stems, strict=True):
        if stem in same_images:
            continue
        ends = found.get(stem, [])
        if of_persons and len(ends) > 1:
            scan.annotators[file] = dict(ends)
        if keys.annotator is not None:
            ends = [end for end in ends if plain(end[0]) == plain(keys.annotator)]
        if not ends:
            without.append(file)
            continue
        chosen = ends[:1] if keys.mask_merge == "first" else ends
        joined += len(chosen) > 1
        paired.append(file)
        targets.append(JOIN.join(mask for _, mask in chosen))
    if keys.annotator is not None and not paired:
        scan.problem(
            f"no mask of the annotator {keys.annotator}; there are {count_names(known)}",
            place.where,
            f"set {data_keys(annotator=known[0])}",
            in_doubt=True,
        )
    if without and paired and keys.on_error == "skip":
        _note_skipped(scan, without, len(place.images))
    elif without and paired:
        scan.problem(
            f"no mask for {len(without)} of {len(place.images)} images: {count_names(without)}",
            place.where,
            "add the masks, or set data.on_error=skip or data.exclude",
        )
    used = {mask for ends in found.values() for _, mask in ends}
    left = [mask for mask in place.masks or () if mask not in used]
    if left:
        scan.notes.append(f"no image for {counted(len(left), 'mask')}: {count_names(sorted(left))}")
    if keys.annotator is not None:
        scan.pairing = f"the mask of an image is that of {keys.annotator}"
    elif len(known) == 1:
        scan.pairing = f"the mask of an image has its stem and {known[0]}"
    else:
        scan.pairing = f"the masks of an image have its stem and {count_names(known, shown=3)}"
    if joined:
        how = keys.mask_merge or "union"
        scan.pairing += f"; {counted(joined, 'image')} with several ({how})"
    return SampleTable.of_split_files(paired, targets, place.split)


_FEW_NAMES = 8
"""Masks of one image up to which they may be those of annotators, not of many parts."""


_MOST_JSON = 20
"""JSON files that are opened to see if they are COCO files."""


def _names_shapes(root: Path, keys: FolderKeys) -> bool:
    """Return True if ``data.masks`` names JSON files, or folders that hold them and no pictures."""
    found = [path for path, _ in matches(root, keys.masks or "", key="data.masks")]
    if any(path.is_file() for path in found):
        return all(path.suffix == ".json" for path in found if path.is_file())
    return not _with_pictures(found) and any(map(_json_below, found))


def _json_files(root: Path, keys: FolderKeys) -> Files:
    """Return the JSON files that ``data.masks`` names, or else those below the root."""
    if keys.masks is not None:
        named = [path for path, _ in matches(root, keys.masks, key="data.masks")]
        parts = ([path] if path.is_file() else _json_below(path) for path in named)
        found = list(chain.from_iterable(parts))
    else:
        found = _json_below(root)
    base = absolute(root)
    names = [absolute(path).relative_to(base).as_posix() for path in found]
    return [name for name in names if not keys.excludes(name)]


def _json_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        files = sorted(name for name in names if name.endswith(".json") and name[0] != ".")
        found += [Path(parent, name) for name in files]
    return found


def _nearest(name: str, images: Sequence[str]) -> str | None:
    """Return the image whose path ends most like a name; None if several end alike."""
    parts = without_suffix(name).split("/")[::-1]

    def shared(image: str) -> int:
        pairs = zip(parts, without_suffix(image).split("/")[::-1], strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    ordered = sorted(images, key=shared, reverse=True)
    if len(ordered) > 1 and shared(ordered[0]) == shared(ordered[1]):
        return None
    return ordered[0] if ordered else None


def _annotated(root: Path, scan: Scan, keys: FolderKeys, files: Files) -> SampleTable | None:
    """Pair images with the shapes of COCO or LabelMe files; None if there are none."""
    if not files:
        return None
    if keys.images is None:
        images = list(keys.kept(list_images(root)[0]))
    else:
        images = [path for path, _ in _named_files(root, keys.images, keys, key="data.images")]
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for path in images:
        by_stem[without_suffix(path).rpartition("/")[2]].append(path)
    beside = [file for file in files if without_suffix(file).rpartition("/")[2] in by_stem]
    rows: list[tuple[str, str, str]] = []  # image, target, split
    if beside:
        known, labels, skipped = read_labelme([root / file for file in beside])
        for file, is_one in zip(beside, known, strict=True):
            image = _nearest(file, by_stem[without_suffix(file).rpartition("/")[2]])
            if is_one and image is not None:
                rows.append((image, file, _split_in(image)))
    if rows:
        scan.layout, scan.pairing = "LabelMe files", "the shapes of an image have its stem"
        missing = sorted(set(images) - {image for image, *_ in rows})
        if missing:
            scan.problem(
                f"no LabelMe file for {len(missing)} of {len(images)} images:"
                f" {count_names(missing)}",
                root,
                "annotate them, or set data.exclude",
            )
    else:
        chosen = [file for file in files[:_MOST_JSON] if is_coco(root / file)]
        if not chosen:
            return None
        labels, skipped = Counter[str](), Counter[str]()
        for file in chosen:
            rows += _of_coco(root, scan, file, images, labels, skipped)
        scan.layout = f"COCO file{'s' if len(chosen) > 1 else ''} {count_names(chosen)}"
        scan.pairing = "the shapes of an image are listed under its file name"
        left = sorted(set(images) - {image for image, *_ in rows})
        if left:
            scan.notes.append(
                f"{count_names(chosen)} does not list {counted(len(left), 'image')} (ignored):"
                f" {count_names(left)}"
            )
    twice = [image for image, count in Counter(image for image, *_ in rows).items() if count > 1]
    if twice:
        scan.problem(
            f"{counted(len(twice), 'image')} with several annotation files: {count_names(twice)}",
            root,
            "set data.masks to one of the files",
            in_doubt=True,
        )
    _note_shapes(root, scan, keys, labels, skipped)
    rows = list({row[0]: row for row in rows}.values())
    table = SampleTable.of_split_files([row[0] for row in rows], [row[1] for row in rows], "")
    return table.with_column(splits=[row[2] for row in rows])


def _of_coco(
    root: Path,
    scan: Scan,
    file: str,
    images: Files,
    labels: Counter[str],
    skipped: Counter[str],
) -> list[tuple[str, str, str]]:
    """Return image, target and split of the images that a COCO file lists."""
    listed = read_coco(root / file)
    labels.update(listed.labels)
    skipped.update(listed.skipped)
    known, above = set(images), file.rpartition("/")[0]
    short: dict[str, str | None] = {}
    for path in images:
        name = path.rpartition("/")[2]
        short[name] = None if name in short else path
    words = re.split(r"[^a-z]+", file.lower())
    of_file = next(filter(None, map(split_name, words)), "")
    rows, lost = [], []
    for key, name in listed.names.items():
        beside = str(PurePosixPath(above) / name)
        image = next(
            (path for path in (beside, name, f"images/{name}") if path in known),
            short.get(name.rpartition("/")[2]),
        )
        if image is None:
            lost.append(name)
        else:
            rows.append((image, f"{file}#{key}", _split_in(image) or of_file))
    if lost:
        scan.problem(
            f"cannot find {len(lost)} of {len(listed.names)} images that {file} lists:"
            f" {count_names(lost)}",
            root,
            "set data.images to their folder",
        )
    return rows


def _split_in(path: str) -> str:
    return next(filter(None, (split_name(part) for part in path.split("/")[:-1])), "")


def _note_shapes(
    root: Path, scan: Scan, keys: FolderKeys, labels: Counter[str], skipped: Counter[str]
) -> None:
    """Record labels without a class, and shapes other than masks."""
    if skipped:
        kinds = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(skipped.items()))
        scan.notes.append(f"WARNING: shapes other than masks were skipped: {kinds}")
    if len(labels) > 1 and keys.num_classes == 2:
        names = sorted(labels)
        scan.problem(
            f"the shapes have {len(names)} labels: {count_names(names)}",
            root,
            f"set data.class_names=[background,{','.join(names[:5])}], or give all shapes one"
            " label",
            in_doubt=True,
        )


def _with_views(root: Path, scan: Scan, samples: SampleTable, keys: FolderKeys) -> SampleTable:
    """Add the field-of-view mask of each image to its target."""
    files = _named_files(root, keys.roi or "", keys, key="data.roi")
    if not files:
        scan.problem(f"no files in {keys.roi}", root, "set data.roi to their folder or a glob")
        return samples
    images = [without_suffix(path).rpartition("/")[2] for path in samples.paths]
    views: dict[str, str] = {}
    if len(files) == 1:
        views = dict.fromkeys(images, files[0][0])
    else:
        names = dict.fromkeys(images, "")
        for path, stem in files:
            name = stem.rpartition("/")[2]
            end = name if name in names else (_end_of(name, names) or ("",))[0]
            if end:
                views[end] = path
    lacking = [path for path, name in zip(samples.paths, images, strict=True) if name not in views]
    if lacking:
        scan.problem(
            f"no field of view for {len(lacking)} of {len(samples)} images: {count_names(lacking)}",
            root,
            "data.roi needs one file for all images, or one named after each image",
        )
    columns = zip(samples.targets, images, strict=True)
    targets = [
        f"{target}{JOIN}{ROI}{views[name]}" if name in views else target for target, name in columns
    ]
    return samples.with_column(targets=targets)


def _repeated(
    scan: Scan, where: Path, files: Files, stems: Sequence[str], *, what: str
) -> dict[str, list[str]]:
    """Return the files of each repeated stem, and record them."""
    keys = np.fromiter((hash(stem) for stem in stems), np.int64, len(files))
    values, counts = np.unique(keys, return_counts=True)
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for row in np.flatnonzero(np.isin(keys, values[counts > 1])).tolist():
        by_stem[stems[row]].append(files[row])
    same_stem = {stem: names for stem, names in by_stem.items() if len(names) > 1}
    repeated = [" and ".join(names) for names in same_stem.values()]
    if repeated:
        message = f"{counted(len(repeated), 'stem')} used more than once: {count_names(repeated)}"
        known = {problem.what for problem in scan.problems}
        if message not in known:
            scan.problem(message, where, f"keep one of the {what} of each stem")
    return same_stem


def _stem(file: str) -> str:
    """Return the name without extension, with accents normalised (macOS zips decompose them)."""
    return unicodedata.normalize("NFC", without_suffix(file))


_NUMBERED = re.compile(r"(.*?)(\d+)")


def _shifted(place: _Place) -> str:
    """Return a hint if images and masks are numbered without gaps, from different numbers on."""
    found = []
    for stems in (place.image_stems, place.mask_stems):
        parts = [_NUMBERED.fullmatch(stem) for stem in stems]
        if not all(parts) or len({part[1] for part in parts if part}) != 1:
            return ""
        numbers = {int(part[2]) for part in parts if part}
        if max(numbers) - min(numbers) + 1 != len(numbers):
            return ""
        found.append((min(numbers), max(numbers)))
    images, masks = found
    if images[0] == masks[0] or images[1] - images[0] != masks[1] - masks[0]:
        return ""
    return (
        f"the images are numbered from {images[0]} to {images[1]} and the masks from {masks[0]} to"
        f" {masks[1]}, so each mask may be that of another image: look at some, and rename the"
        " files of one folder, or pair them in splits.csv"
    )


def _suffix_hint(images: Iterable[str], masks: Iterable[str]) -> str | None:
    """Return a hint if the unmatched masks are named as an image plus a common suffix."""
    rest = list(masks)
    endings = Counter(
        end
        for image in list(images)[:5]
        for mask in rest
        if mask.startswith(image)
        and (end := mask[len(image) :])
        and not (image[-1].isdigit() and end[0].isdigit())  # 12 is not 1 with a suffix
    )
    if not endings:
        return None
    return f"set {data_keys(mask_suffix=endings.most_common(1)[0][0])} if masks are named so"


def _splits_inside(scan: Scan, samples: SampleTable) -> SampleTable:
    """Treat ``images/train/...`` as a given split if every image is in such a folder.

    So are folders such as ``Training_Input`` and ``Test_Input``, and names of files.
    """
    if not samples or samples.splits.numbered()[0] != [""]:
        return samples
    parts = [path.split("/")[:-1] for path in samples.paths]
    inside = [split_name(folders[1]) if len(folders) > 1 else None for folders in parts]
    if all(inside):
        top = sorted({folders[0] for folders in parts})
        scan.notes.append(f"read the folders inside {count_names(top)} as the given split")
        return samples.with_column(splits=[name or "" for name in inside])
    named = {folder: splits_named_in(folder) for folder in {*chain.from_iterable(parts)}}
    found = [{name for folder in folders for name in named[folder]} for folders in parts]
    splits = [min(names) if len(names) == 1 else "" for names in found]
    if divide(splits):
        folders = sorted(folder for folder, names in named.items() if names)
        scan.notes.append(f"read {count_names(folders)} as the given split")
        return samples.with_column(splits=splits)
    return split_by_names(scan, samples)
