"""List the samples of a data set with their given splits and groups.

Precedence of given splits: the csv passed by the user, then ``ROOT/splits.csv``, then folders named
after splits. Samples without a given split have an empty one and are drawn later.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from medvision.command_line import data_keys
from medvision.console import counted
from medvision.data.discovery.class_folders import (
    CLASS_LAYOUT,
    are_numbered,
    are_parts,
    order_classes,
    scan_classes,
)
from medvision.data.discovery.folders import (
    SEGMENTATION_LAYOUT,
    Scan,
    is_image,
    list_images,
    missing_files,
    only_content,
    subfolders,
)
from medvision.data.discovery.keys import FolderKeys
from medvision.data.discovery.mask_folders import (
    mask_folder_pairs,
    scan_segmentation,
)
from medvision.data.discovery.splits_csv import (
    Prefer,
    names_images,
    read_groups,
    read_splits,
    why_unread,
)
from medvision.data.readers.annotations import container
from medvision.data.samples import (
    JOIN,
    ROI,
    SampleTable,
    count_names,
    files_in,
    split_name,
    without_suffix,
)
from medvision.data.splits.groups import given_groups, group_by_patient, group_by_pattern
from medvision.errors import MedvisionError
from medvision.files import is_there

Task = Literal["segmentation", "classification"]
Targets = Literal["masks", "classes", "texts"]
_ONE = {"masks": "mask", "classes": "class", "texts": "target"}
_OR_ELSE = {
    "masks": ", or masks with the stems of the images",
    "classes": ", or put the images into folders of their classes",
    "texts": ", or remove their lines",
}
TASK_NAMES: tuple[Task, ...] = ("segmentation", "classification")
NO_LABEL = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
"""Texts by which programs write that a cell is missing; case is ignored."""

LISTED_LAYOUT = "expected FOLDER/splits.csv with the columns path and target"


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """Samples of a data set, by path.

    Attributes:
        samples: Samples with their given splits and groups.
        notes: Omissions and irregularities.
        class_names: Classes by index; empty for segmentation.
        layout: Description of the folders that were recognised.
        pairing: How images and masks were paired; empty without masks.
        other: How else the folder may be read, with the key that decides; empty if in no way.
        annotators: Masks of each image that has several, by annotator or part.
        grouping: Where the groups come from: names of tables, ``DICOM_HEADERS``,
            ``data.group_pattern``; empty without groups.
    """

    samples: SampleTable
    notes: list[str]
    class_names: list[str] = field(default_factory=list)
    layout: str = ""
    pairing: str = ""
    other: str = ""
    annotators: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    grouping: tuple[str, ...] = ()


DICOM_HEADERS = "DICOM headers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Task of a folder.

    Attributes:
        task: The task.
        notes: Remarks on what is left out.
        other: How else the folder may be read, with the key that decides; empty if in no way.
    """

    task: Task
    notes: list[str] = field(default_factory=list)
    other: str = ""


def index_segmentation(
    root: Path,
    *,
    keys: FolderKeys | None = None,
    splits: Path | None = None,
    group_pattern: str | None = None,
) -> Index:
    """List images with their masks.

    Reads ``ROOT/images/*`` and ``ROOT/masks/*`` matched by stem, also in equal sub-folders, under
    usual other names and within folders of splits; masks beside their images; folders with one
    image and its masks; or the images listed in ``ROOT/splits.csv``, omitting others with a note.
    Images not listed in ``splits`` are added.

    Args:
        root: The data folder.
        keys: Keys of the layout; None for the defaults.
        splits: Path of an earlier run's csv, with paths relative to ``root``, whose splits are
            kept.
        group_pattern: Regular expression with one capture group, searched in each path; the
            captured text is the sample's group. It takes precedence over the groups of a csv, and
            both over the patients in DICOM files.

    Raises:
        MedvisionError: If the folder, the csv or the pattern does not match the description above.
    """
    root = existing_folder(root, hint=f"check data.root: {SEGMENTATION_LAYOUT}")
    scan = scan_segmentation(root, keys)
    index = _index(root, scan, splits, group_pattern, targets="masks", keys=keys)
    return described(index, scan)


def described(index: Index, scan: Scan) -> Index:
    """Return an index with the description of the folders that it was made from."""
    return replace(
        index,
        layout=scan.layout,
        pairing=scan.pairing,
        other=scan.other or scan.inner,
        annotators=scan.annotators,
    )


def index_classification(
    root: Path,
    *,
    keys: FolderKeys | None = None,
    splits: Path | None = None,
    group_pattern: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Index:
    """List images with the names of their classes.

    Reads ``ROOT/<class>/*``; ``ROOT/{train,val,test}/<class>/*``; or the images that
    ``ROOT/splits.csv`` lists with their class in the column ``target``, or, if blank, the class of
    their folder. Otherwise as `index_segmentation`.

    A label of a csv that is blank, or a text of ``NO_LABEL`` that ``keys.class_names`` lacks, is
    missing. Its row is refused, or left out with a note if ``keys.on_error`` is ``skip``, unless
    its folder is a class.

    Args:
        root: The data folder.
        keys: As for `index_segmentation`.
        splits: As for `index_segmentation`.
        group_pattern: As for `index_segmentation`.
        class_names: All classes in index order; None sorts them alphabetically.

    Raises:
        MedvisionError: If the folder, the csv, the pattern or the classes do not match the
            description above.
    """
    root = existing_folder(root, hint=f"check data.root: {CLASS_LAYOUT}")
    scan = scan_classes(root, keys)
    index = _index(root, scan, splits, group_pattern, targets="classes", keys=keys)
    names = order_classes(root, index.samples, class_names)
    return described(replace(index, class_names=names), scan)


def index_listed(
    root: Path, *, splits: Path | None = None, group_pattern: str | None = None
) -> Index:
    """List the images of ``ROOT/splits.csv`` with the text of its column ``target``.

    For targets that are neither masks nor classes, such as numbers. Otherwise as
    `index_segmentation`.

    Args:
        root: The data folder.
        splits: As for `index_segmentation`; blank targets are taken from ``ROOT/splits.csv``.
        group_pattern: As for `index_segmentation`.

    Raises:
        MedvisionError: If the folder, a csv or the pattern does not match the description above.
    """
    root = existing_folder(root, hint=f"check data.root: {LISTED_LAYOUT}")
    own = root / "splits.csv"
    if not is_there(own):
        raise MedvisionError("splits.csv is missing", where=str(root), hint=LISTED_LAYOUT)
    scan = Scan(images=list_images(root)[0], samples=read_splits(own))
    return _index(root, scan, splits, group_pattern, targets="texts")


def existing_folder(root: Path, *, hint: str = "check the path") -> Path:
    """Return the existing data folder with ``~`` expanded.

    Raises:
        MedvisionError: If the folder does not exist.
    """
    root = root.expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MedvisionError(f"the data folder {what}", where=str(root), hint=hint)
    return root


def task_in_csv(root: Path) -> Task | None:
    """Derive the task from the targets (files or classes) in ``ROOT/splits.csv``, None if blank."""
    return _task_of(root / "splits.csv")


def _task_of(table: Path, *, one_hot: bool = False) -> Task | None:
    names = read_splits(table, one_hot=one_hot).targets if is_there(table) else ()
    targets = [name for name in names if name and name.casefold() not in NO_LABEL]
    if not targets:
        return None
    first = container(files_in(targets[0])[0])
    is_file = is_image(first) or first.endswith(".json")
    return "segmentation" if is_file else "classification"


_MOST_CLASSES = 20
"""Folders of images with masks up to which they may be classes; more are those of patients."""


def usual_table(root: Path) -> Path | None:
    """Return the only csv or tsv file in the root that names images, other than splits.csv.

    It is read where folders and file names tell neither masks nor classes. Of several, it is the
    only one that also has a column of targets.
    """
    found = [path for path in _tables(root) if names_images(path)]
    if len(found) > 1:
        found = [path for path in found if names_images(path, with_targets=True)]
    return found[0] if len(found) == 1 else None


def _tables(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.iterdir())
        if path.suffix.lower() in (".csv", ".tsv") and path.is_file()
    ]


def _refuse_unread_table(root: Path, what: str) -> None:
    """Raise if the root holds tables of which none can be read, where nothing else can be."""
    tables = _tables(root)
    faults = {path: fault for path in tables if (fault := why_unread(path)) is not None}
    if len(tables) - len(faults) > 1:
        names = [path.name for path in tables if path not in faults]
        raise MedvisionError(
            f"{what}, and {count_names(names)} all name images",
            where=str(root),
            hint="keep one of these tables in the folder, or name it splits.csv",
        )
    if tables and len(faults) == len(tables):
        path, (reason, hint) = next(iter(faults.items()))
        raise MedvisionError(f"{what}, and {reason}", where=str(path), hint=hint)


def choose_task(root: Path, keys: FolderKeys | None = None) -> Choice:
    """Derive the task of a folder from ``data.task``, its csv, its folders or its files.

    Raises:
        MedvisionError: If the folder holds neither images with masks nor class folders, or cannot
            be listed.
    """
    keys = keys or FolderKeys()
    if keys.task is not None:
        if keys.task not in TASK_NAMES:
            raise MedvisionError(
                f"expected {' or '.join(TASK_NAMES)}, got {keys.task}",
                where="data.task",
                hint="change it",
            )
        if keys.task == "segmentation" and keys.class_pattern is not None:
            raise MedvisionError(
                "data.class_pattern names classes, data.task=segmentation expects masks",
                where="data.class_pattern",
                hint="set one of them",
            )
        return Choice(task=keys.task)
    if keys.class_pattern is not None:
        return Choice(task="classification")
    of_images = keys.images is not None and not keys.images.endswith(".npz")
    if keys.masks is not None or of_images:
        return Choice(task="segmentation")
    listed = task_in_csv(root)
    if listed is not None:
        return Choice(task=listed)
    pairs = [pair for pair in mask_folder_pairs(root, keys) if pair[2] is not None]
    classes = scan_classes(root, keys)
    names = classes.samples.targets.numbered()[0]
    table = usual_table(root)
    has_classes = len(names) > 1 and not all(map(split_name, names))  # not train/train, test/test
    if pairs:
        above = {_class_above(root, images) for _, images, _ in pairs}
        few = len(classes.images) < 2 * len(above)
        numbered = are_numbered(above) or are_parts(sorted(above))
        numbered = numbered or scan_segmentation(root, keys).in_doubt
        if len(above - {""}) < 2 or "" in above or few or numbered:
            own = {part for _, i, m in pairs for part in (i.name, m.name if m else "", *above)}
            others = [name for name in names if name not in own]
            note = f"read as images with masks; ignored beside them: {count_names(others)}"
            several = len(above) > 1 and "" not in above
            other = "class folders: data.task=classification" if several else ""
            return Choice(task="segmentation", notes=[note] if others else [], other=other)
        return Choice(task="classification", other=classes.other)
    one_each = len(classes.images) == len(names) and bool(classes.other)
    if len(names) > _MOST_CLASSES and classes.other:
        other = "class folders: data.task=classification"
        return Choice(task="segmentation", other=other)
    unnamed = are_numbered(names) or are_parts(names)
    if table is not None and unnamed and (listed := _task_of(table, one_hot=True)) is not None:
        return Choice(task=listed)
    if has_classes and not classes.holds_masks and not one_each and not classes.in_doubt:
        return Choice(task="classification", other=classes.other)
    if scan_segmentation(root, keys).layout:
        return Choice(task="segmentation", other=_classes_inside(root))
    if table is not None and (listed := _task_of(table, one_hot=True)) is not None:
        return Choice(task=listed)
    if has_classes and not classes.holds_masks:
        return Choice(task="classification")
    if classes.in_doubt:
        classes.refuse_problems()
    what = "expected images with masks, or at least two class folders"
    inside = subfolders(root)
    places = [root, *(folder for folder in inside if split_name(folder.name))]
    names_inside = {folder.name.lower() for place in places for folder in subfolders(place)}
    if "images" in names_inside:
        what = "expected a masks folder beside the images folder"
    found = only_content(root)
    if found and "images" not in names_inside:
        what = f"expected images with masks, or at least two class folders, found {found}"
    _refuse_unread_table(root, what)
    guess = f"did you mean {inside[0]}? " if len(inside) == 1 and not found else ""
    raise MedvisionError(
        what,
        where=str(root),
        hint=f"{guess}{SEGMENTATION_LAYOUT}; or {CLASS_LAYOUT};"
        " or set data.images and data.masks, or data.class_pattern",
    )


def _classes_inside(root: Path) -> str:
    """Return how to read the only folder of the root as class folders; empty if it holds none."""
    inside = subfolders(root)
    below = scan_classes(inside[0]) if len(inside) == 1 else Scan()
    names = below.samples.targets.numbered()[0]
    several = len(names) > 1 and not below.problems and not are_numbered(names)
    return f"class folders: {data_keys(root=inside[0])}" if several else ""


def _class_above(root: Path, images: Path) -> str:
    """Return the folder that could be the class of a folder of images; empty if there is none."""
    parts = images.relative_to(root).parts[:-1]
    return next((part for part in parts if not split_name(part)), "")


def _index(
    root: Path,
    scan: Scan,
    splits: Path | None,
    group_pattern: str | None,
    *,
    targets: Targets,
    keys: FolderKeys | None = None,
) -> Index:
    """Return the samples of the csv files, or else of the folders, by path and with notes."""
    keys = keys or FolderKeys()
    samples, notes, own = scan.samples, scan.notes, root / "splits.csv"
    says_nothing = not is_there(own) and splits is None and _says_nothing(scan, targets, keys)
    classes = scan.samples.targets.numbered()[0] if targets == "classes" else ()
    if says_nothing and len(classes) < 2:
        what = "no images with masks" if targets == "masks" else "no class folders"
        _refuse_unread_table(root, what)
    if says_nothing and (table := usual_table(root)) is not None:
        own, scan.layout, scan.pairing = table, f"listed in {table.name}", ""
    if is_there(own):
        one_hot = _says_nothing(scan, targets, keys)
        samples, notes, without = _listed(root, scan, own, targets, keys, one_hot=one_hot)
        left_out = sorted(set(scan.images).difference(samples.paths, without))
        if left_out:
            notes.append(
                f"{own.name} does not list {counted(len(left_out), 'image')} (ignored):"
                f" {count_names(left_out)}"
            )
    elif splits is None:
        scan.refuse_problems()
    lists = [path.name for path in sorted(root.glob("*.txt")) if split_name(path.stem)]
    if lists and splits is None and samples.splits.numbered()[0] == [""]:
        notes = [
            *notes,
            f"{count_names(lists)} {'are' if len(lists) > 1 else 'is'} not read as a split:"
            " data.splits names a csv with the columns path and split",
        ]
    grouping = [own.name] if given_groups(samples) else []
    if group_pattern is None:
        listed = len(given_groups(samples))
        samples, more = group_by_patient(root, samples)
        grouping += [DICOM_HEADERS] if len(given_groups(samples)) > listed else []
        notes = notes + more
    if splits is not None:
        table = splits.expanduser()
        rows, more, without = _listed(root, scan, table, targets, keys)
        if without:
            samples = samples.select(~np.isin(list(samples.paths), without))
        samples, added = keep_splits(table, rows, scan, samples, is_there(own))
        notes = notes + more + added
        grouping += [table.name] if given_groups(rows) and table.name not in grouping else []
    if group_pattern is not None:
        samples, more = group_by_pattern(samples, group_pattern)
        notes = notes + more
        grouping = ["data.group_pattern", *(grouping if more else [])]
    if not grouping:
        notes = [*notes, *_unread_groups(root, own, samples)]
    return Index(samples=samples.by_path(), notes=notes, grouping=tuple(grouping))


def _unread_groups(root: Path, own: Path, samples: SampleTable) -> list[str]:
    """Return a note for each table but ``own`` in which several samples have the same group."""
    notes = []
    for table in _tables(root):
        column, groups = read_groups(table) if table != own else ("", {})
        if not groups:
            continue
        files = _Files(list(samples.paths))
        spelled = {files.spelled(name): group for name, group in groups.items()}
        splits: defaultdict[str, list[str]] = defaultdict(list)
        for path, split in zip(samples.paths, samples.splits, strict=True):
            if path in spelled:
                splits[spelled[path]].append(split)
        several = [of for of in splits.values() if len(of) > 1]
        torn = sum(len({*of} - {""}) > 1 for of in several)
        drawn = sum(len(of) for of in several if "" in of)
        remedy = f"add the column to {own.name}" if is_there(own) else "rename it to splits.csv"
        if torn:
            notes.append(
                f"{table.name} is not read: {torn} of the {len(splits)} values of {column} have"
                f" images in more than one of the given splits; {remedy} to have them checked"
            )
        elif drawn:
            notes.append(
                f"{table.name} is not read: images with the same {column} can be in different"
                f" splits ({drawn} of {counted(len(samples), 'image')} share one with another"
                f" image); {remedy} to keep them together"
            )
    return notes


def _says_nothing(scan: Scan, targets: Targets, keys: FolderKeys) -> bool:
    """Return True if folders, file names and keys tell neither masks nor classes."""
    if keys.class_pattern is not None:
        return False
    if targets == "masks":
        return not scan.samples
    names = scan.samples.targets.numbered()[0]
    unnamed = are_numbered(names) or are_parts(names)
    return targets == "classes" and (scan.holds_masks or unnamed)


def _listed(
    root: Path,
    scan: Scan,
    table: Path,
    targets: Targets,
    keys: FolderKeys,
    *,
    one_hot: bool = False,
) -> tuple[SampleTable, list[str], list[str]]:
    """Return the samples of a csv, notes, and the images that are left out without a target.

    Blank targets become masks of the same stem, or the class folder of the image.
    """
    known, with_masks, with_classes = scan.samples, targets == "masks", targets == "classes"
    by_pattern = with_classes and keys.class_pattern is not None
    if with_classes and not by_pattern and (scan.problems or len(known.targets.numbered()[0]) < 2):
        known = SampleTable.of([])  # folders are not classes
    prefer: Prefer | None = "masks" if with_masks else "classes" if with_classes else None
    rows, spelled = _as_spelled(read_splits(table, prefer=prefer, one_hot=one_hot), scan, root)
    words: list[str] = []
    if by_pattern:
        rows = rows.with_column(targets=[""] * len(rows))
    elif targets != "texts":
        rows, words = _without_words(rows, keys.class_names)
    labels = set(rows.targets.numbered()[0]) - {""}
    if with_classes:
        _refuse_several(rows, table, labels, keys.class_names)
    samples = fill_targets(rows, known, by_folder=with_classes and not by_pattern)
    if with_classes and labels and (not known or _says_nothing(scan, targets, keys)):
        # The folders are no classes, as images/ and patient_001/ beside labels.csv.
        filled = (target if target in labels else "" for target in samples.targets)
        samples = samples.with_column(targets=filled)
    names = chain.from_iterable(
        (container(path), *(files_in(target) if with_masks and target else ()))
        for path, target in zip(samples.paths, samples.targets, strict=True)
    )
    seen = {*scan.images, *(scan.samples.targets if with_masks else ())}
    missing = missing_files(root, (container(name) for name in names if name not in seen))
    if missing:
        near = spelled.get(without_suffix(missing[0]))
        raise MedvisionError(
            f"cannot find {counted(len(missing), 'listed file')} in {root}: {count_names(missing)}",
            where=str(table),
            hint=f"did you mean {near}?" if near else "check data.root, or remove their lines",
        )
    blank = samples.targets.equal("")
    without = list(samples.paths.select(blank))
    notes: list[str] = []
    if without:
        named = f" ({', '.join(words)})" if words else ""
        of = f"{len(without)} of {len(samples)} images"
        if keys.on_error != "skip" or blank.all():
            raise MedvisionError(
                f"no {_ONE[targets]}{named} for {of}: {count_names(without)}",
                where=str(table),
                hint=_fill_in(targets, words)
                if labels and targets != "texts"
                else f"add the column target{_OR_ELSE[targets]}",
            )
        notes = [
            f"SKIPPED {of} because they have no {_ONE[targets]}{named} in {table.name} and"
            f" data.on_error=skip: {count_names(without)}"
        ]
        samples = samples.select(~blank)
    if not with_classes:
        return samples, notes, without
    files = {name for name in samples.targets.numbered()[0] if is_image(name)}
    if files:
        first = next(name for name in samples.targets if name in files)
        raise MedvisionError(
            f"expected class names in the column target, got files such as {first}",
            where=str(table),
            hint="choose a segmentation experiment, or another data.root",
        )
    return samples, notes, without


def _without_words(rows: SampleTable, labels: Sequence[str]) -> tuple[SampleTable, list[str]]:
    """Blank the targets of ``NO_LABEL`` that are no labels; return these texts as well."""
    names, number = rows.targets.numbered()
    words = [name for name in names if name.casefold() in NO_LABEL and name not in labels]
    if not words:
        return rows, []
    cells = ["" if name in words else name for name in names]
    return rows.with_column(targets=map(cells.__getitem__, number.tolist())), words


def _refuse_several(rows: SampleTable, table: Path, labels: set[str], names: Sequence[str]) -> None:
    """Raise if cells hold several classes, such as ``Mass|Effusion`` beside ``Mass``."""
    several = [
        label
        for label in sorted(labels.difference(names))
        if len(parts := _BETWEEN.split(label)) > 1 and labels.issuperset(parts)
    ]
    if several:
        found = int(np.isin(list(rows.targets), several).sum())
        raise MedvisionError(
            f"{found} of {len(rows)} images have several classes: {count_names(several)}",
            where=str(table),
            hint="keep the images of one class each; if these texts are classes of their own, list"
            " all classes in data.class_names",
        )


_BETWEEN = re.compile(r"\s*[|;,/+&]\s*")


def _fill_in(targets: Targets, words: Sequence[str]) -> str:
    """Return what to do about some rows without a target."""
    hint = "fill in these cells, or set data.on_error=skip to leave the images out"
    if targets == "classes" and words:
        hint += f"; if {words[0]} is a class, list all classes in data.class_names"
    return hint


def _as_spelled(rows: SampleTable, scan: Scan, root: Path) -> tuple[SampleTable, Mapping[str, str]]:
    """Spell the files of a csv as they are on the disk, and return the files by their stem.

    The same accents have two encodings, and systems and spreadsheets change one into the other.
    """
    listed = [*rows.paths, *chain.from_iterable(map(files_in, rows.targets.numbered()[0]))]
    known = {*scan.images, *chain.from_iterable(map(files_in, scan.samples.targets.numbered()[0]))}
    if known.issuperset(name for name in listed if is_image(name)) and known.issuperset(rows.paths):
        return rows, {}
    there = list_images(root)[0]
    files = _Files(there)
    return rows.with_column(
        paths=map(files.spelled, rows.paths),
        targets=map(files.target_spelled, rows.targets),
    ), {unicodedata.normalize("NFC", without_suffix(name)): name for name in there}


def names_on_disk(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the path of each file that a table of ``root`` names, as `Index` spells it."""
    names = list(names)
    if not missing_files(root, map(container, names)):
        return {name: name for name in names}
    files = _Files(list_images(root)[0])
    return {name: files.spelled(name) for name in names}


class _Files:
    """Files of a folder by normalised path, and by name or stem where that is unique."""

    def __init__(self, names: Sequence[str]) -> None:
        self._own = set(names)
        self._spelled = {unicodedata.normalize("NFC", name): name for name in names}
        self._short: dict[str, str | None] = {}
        for path, name in self._spelled.items():
            last = path.rpartition("/")[2]
            for short in {last, without_suffix(last), without_suffix(path)} - {path}:
                self._short[short] = None if short in self._short else name

    def spelled(self, name: str) -> str:
        """Return the path of a file that a table names; the same text if there is none."""
        if name in self._own:
            return name
        normal = unicodedata.normalize("NFC", name)
        return self._spelled.get(normal) or self._short.get(normal) or name

    def target_spelled(self, target: str) -> str:
        """The same for a target, of one or several files."""
        if not (JOIN in target or is_image(target)):
            return target  # a class
        parts = target.split(JOIN)
        return JOIN.join(
            ROI + self.spelled(part.removeprefix(ROI))
            if part.startswith(ROI)
            else self.spelled(part)
            for part in parts
        )


def fill_targets(rows: SampleTable, known: SampleTable, *, by_folder: bool = False) -> SampleTable:
    """Fill blank targets from the known samples, or else with the folder name.

    Args:
        rows: Samples of a csv.
        known: Existing samples.
        by_folder: If True, use the folder name for unknown samples.
    """
    if not rows.targets.equal("").any():
        return rows
    targets = dict(zip(known.paths, known.targets, strict=True))
    columns = zip(rows.paths, rows.targets, strict=True)
    filled = (target or targets.get(path, "") for path, target in columns)
    if by_folder:
        pairs = zip(rows.paths, filled, strict=True)
        filled = (target or PurePosixPath(path).parent.name for path, target in pairs)
    return rows.with_column(targets=filled)


def keep_splits(
    table: Path, listed: SampleTable, scan: Scan, there: SampleTable, has_csv: bool
) -> tuple[SampleTable, list[str]]:
    """Keep the splits of an earlier run for the current samples.

    Args:
        table: Path of the csv, for messages.
        listed: Samples listed in the csv.
        scan: Content of the folders.
        there: Current samples.
        has_csv: If True, the data set has its own csv.
    """
    kept = set(listed.paths)
    if not has_csv and any(image not in kept for image in scan.images):
        scan.refuse_problems()  # new images must be valid; for listed ones the csv decides
    # A run folder contains hashed groups: group names in the data's own csv take precedence.
    samples, groups = listed, given_groups(there)
    if groups:
        columns = zip(listed.paths, listed.groups, strict=True)
        samples = listed.with_column(groups=(groups.get(p, g) for p, g in columns))
    added = there.select(np.array([path not in kept for path in there.paths], bool))
    if not len(added):
        return samples, []
    notes = [f"added {counted(len(added), 'image')} that {table} does not list"]
    if any(g and p not in groups for p, g in zip(listed.paths, listed.groups, strict=True)):
        notes.append(
            f"the groups in {table} are unknown for the added images:"
            " an added image may belong to a group of another split; set data.group_pattern"
        )
    return SampleTable.joined([samples, added]), notes
