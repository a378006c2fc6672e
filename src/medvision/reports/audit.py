"""Page of a data set audit: findings as tables, with the pictures that show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.reports.page import (
    Measured,
    Picture,
    Row,
    Table,
    interval,
    jpeg_picture,
    measured,
    number,
    render,
    whole,
)

SPLITS = ("train", "val", "test", "none", "all")
METRIC_WORDS = {"accuracy": "accuracy", "dice": "Dice"}
UNASSIGNED = {"none": "no split given", "all": "no split given"}
CROSSINGS = {
    "test_images_in_train": ("test", "Test images also in train"),
    "val_images_in_train": ("val", "Val images also in train"),
    "test_images_in_val": ("test", "Test images also in val"),
}
SHOWN_FILES = 4


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One large number, what it is called and what stands below it."""

    name: str
    value: str
    about: str


@dataclass(frozen=True, kw_only=True)
class FindingRow:
    """A finding as the page shows it; ``more`` names all files where they are many."""

    severity: str
    text: str
    advice: str
    files: Sequence[str]
    num_hidden: int
    spoils: bool


def tiles(audit: Mapping[str, Any]) -> list[Tile]:
    """The few numbers that matter most."""
    exact, near = audit["exact_duplicates"], audit["near_duplicates"]
    conflicts, memory = len(audit["label_conflicts"]), audit["memory_baseline"]
    tested = audit["num_images_by_split"].get("test", 0)
    trained = audit["num_images_by_split"].get("train", 0)
    found = [Tile(name="Images", value=whole(audit["num_images"]), about=audit["task"])]
    for name, part in (("Identical images", exact), ("Near-duplicates", near)):
        if tested and trained:
            about = f"of {whole(tested)} test images are also in train"
            found.append(Tile(name=name, value=whole(part["test_images_in_train"]), about=about))
        else:
            about = f"images in {whole(part['groups'])} groups"
            found.append(Tile(name=name, value=whole(part["images"]), about=about))
    what = "classes" if audit["class_counts"] else "masks"
    found.append(
        Tile(name="Conflicts", value=whole(conflicts), about=f"pairs with contradicting {what}")
    )
    if memory is not None:
        metric = metric_of(memory)
        found.append(
            Tile(
                name="Nearest neighbour",
                value=number(memory[metric]),
                about=f"{METRIC_WORDS[metric]}, {interval(memory[f'{metric}_ci95'])}; chance"
                f" {number(memory['chance'])}",
            )
        )
    return found


def metric_of(memory: Mapping[str, Any]) -> str:
    """What the nearest neighbour is measured by."""
    return "accuracy" if "accuracy" in memory else "dice"


def finding_rows(audit: Mapping[str, Any]) -> list[FindingRow]:
    """Every finding with the first of its files."""
    return [
        FindingRow(
            severity=finding["severity"],
            text=_sentence(finding["text"]),
            advice=_sentence(finding["advice"]),
            files=finding["files"][:SHOWN_FILES],
            num_hidden=max(0, len(finding["files"]) - SHOWN_FILES),
            spoils=finding["severity"] in ("leak", "conflict", "fault"),
        )
        for finding in audit["findings"]
    ]


def _sentence(text: str) -> str:
    """With a capital and a full stop, unless the first word is a name such as ``data.protocol``."""
    first = text.split(" ")[0]
    return (
        f"{text if '.' in first or '_' in first else text[:1].upper() + text[1:]}." if text else ""
    )


def set_facts(audit: Mapping[str, Any]) -> Table:
    """Where the set lies and how large it is."""
    sizes = audit["num_images_by_split"]
    counts = ", ".join(
        f"{UNASSIGNED.get(name, name)} {whole(sizes[name])}" for name in SPLITS if name in sizes
    )
    rows = [
        Row(name="Folder", cells=["; held against ".join(audit["roots"])]),
        Row(name="Images", cells=[f"{whole(audit['num_images'])} ({counts})"]),
        Row(name="Files that cannot be used", cells=[whole(audit["num_unusable"])]),
        Row(name="Time taken", cells=[f"{audit['elapsed_s']:.1f} s"]),
    ]
    return Table(caption="The set", head=(), rows=rows)


def class_table(audit: Mapping[str, Any]) -> Table | None:
    """Images of each class in each split, with their share."""
    counts: Mapping[str, Mapping[str, int]] = audit["class_counts"]
    if not counts:
        return None
    splits = [name for name in SPLITS if name in counts]
    totals = {split: sum(counts[split].values()) for split in splits}

    def cell(split: str, name: str) -> Measured:
        number = counts[split][name]
        return Measured(value=whole(number), ends=f"{100 * number / totals[split]:.1f} %")

    return Table(
        caption="Images of each class, and their share of the split",
        head=["Class", *(UNASSIGNED.get(split, split) for split in splits)],
        rows=[
            *(
                Row(name=name, cells=[cell(split, name) for split in splits])
                for name in counts[splits[0]]
            ),
            Row(name="all", cells=[whole(totals[split]) for split in splits], strong=True),
        ],
    )


def duplicate_table(audit: Mapping[str, Any]) -> Table:
    """Exact and near duplicates side by side."""
    parts = (audit["exact_duplicates"], audit["near_duplicates"])
    sizes = audit["num_images_by_split"]
    rows = [
        Row(name="Groups", cells=[whole(part["groups"]) for part in parts]),
        Row(name="Images in them", cells=[whole(part["images"]) for part in parts]),
        Row(name="Images of the largest", cells=[whole(part["largest_group"]) for part in parts]),
    ]
    if len(sizes) > 1:
        across = [whole(part["groups_across_splits"]) for part in parts]
        rows.append(Row(name="Groups in more than one split", cells=across))
    for key, (split, name) in CROSSINGS.items():
        other = key.rpartition("_")[2]
        if split in sizes and other in sizes:
            cells = [f"{whole(part[key])} of {whole(sizes[split])}" for part in parts]
            rows.append(Row(name=name, cells=cells, strong=any(part[key] for part in parts)))
    return Table(
        caption="Images that are there more than once",
        head=["", "identical pixels", "near-duplicates"],
        rows=rows,
        note="Identical means equal decoded pixels, whatever the file around them. Near-duplicates"
        f" correlate by {audit['near_duplicates']['threshold']} or more as they are, mirrored or"
        " turned, or agree in every part once a slight cut is undone (there from a little less);"
        " identical ones are counted among them.",
    )


def memory_table(audit: Mapping[str, Any]) -> Table | None:
    """What the nearest neighbour scores: on all, with and without a twin."""
    memory = audit["memory_baseline"]
    if memory is None:
        return None
    metric = metric_of(memory)
    asked = "test images" if memory["protocol"] == "test split" else "images, each left out in turn"
    where = "in train" if memory["protocol"] == "test split" else "in the set"
    parts = [(f"All {asked}", memory)]
    if memory["with_twin"]["num_images"]:
        parts += [
            (f"With a near-duplicate {where}", memory["with_twin"]),
            ("Without one", memory["without_twin"]),
        ]
    balanced = metric == "accuracy"

    def cells(part: Mapping[str, Any]) -> list[str | Measured]:
        value = measured(part[metric], part[f"{metric}_ci95"])
        more = [number(part.get("balanced_accuracy"))] if balanced else []
        return [whole(part["num_images"]), value, *more]

    rows = [
        Row(name=name, cells=cells(part), bar=(part[metric], part[f"{metric}_ci95"]))
        for name, part in parts
    ]
    blank = [""] if balanced else []
    rows.append(Row(name=_chance(memory), cells=["", number(memory["chance"]), *blank], bar=None))
    return Table(
        caption=f"Nearest neighbour: {METRIC_WORDS[metric]} with its 95 % interval",
        head=["", "images", METRIC_WORDS[metric], *(["balanced accuracy"] if balanced else [])],
        rows=rows,
    )


def _chance(memory: Mapping[str, Any]) -> str:
    if metric_of(memory) == "dice":
        return "Foreground everywhere"
    return "Always the most frequent class"


def shortcut_table(audit: Mapping[str, Any]) -> Table | None:
    """What properties of the files alone tell about the class."""
    shortcuts = audit["shortcuts"]
    if shortcuts is None or not shortcuts["scores"]:
        return None
    constant = ", ".join(shortcuts["constant"])
    rows = [
        Row(
            name=found["features"],
            cells=[measured(found["balanced_accuracy"], found["balanced_accuracy_ci95"])],
            bar=(found["balanced_accuracy"], found["balanced_accuracy_ci95"]),
            strong=found["predicts"],
        )
        for found in shortcuts["scores"]
    ]
    return Table(
        caption="Balanced accuracy of a decision tree of depth 3 on properties of the files alone",
        head=["property", "balanced accuracy"],
        rows=rows,
        note=f"By {shortcuts['folds']}-fold cross-validation that keeps near-duplicates together,"
        f" on {whole(shortcuts['num_images'])} images; chance is {number(shortcuts['chance'])}."
        f" In bold: clearly above chance (by more than {shortcuts['margin']})."
        + (f" The same for all images: {constant}." if constant else ""),
    )


GAP_PX = 6
"""White between the two pictures of a pair."""


@dataclass(frozen=True, kw_only=True)
class PictureCase:
    """One or two images side by side, and what is said about them.

    Attributes:
        pictures: RGB (H, W, 3) in [0, 255], of one height.
        title: What they have in common, or what is odd.
        lines: Text below: of each picture its file, and what is known about it.
        wrong: Whether the page marks it.
    """

    pictures: Sequence[NDArray[np.uint8]]
    title: str
    lines: Sequence[str]
    wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures of one kind.

    Attributes:
        title: Above them.
        note: A sentence about all of them.
        cases: The pictures.
        hidden: How many more there are.
    """

    title: str
    cases: Sequence[PictureCase]
    note: str = ""
    hidden: int = 0


@dataclass(frozen=True, kw_only=True)
class _Shown:
    picture: Picture
    title: str
    lines: Sequence[str]
    wrong: bool


def audit_page(
    audit: Mapping[str, Any],
    *,
    pairs: Sequence[Gallery],
    odd: Sequence[Gallery],
    neighbours: Sequence[Gallery],
) -> str:
    """The page as HTML, one self-contained file.

    Args:
        audit: What ``audit.json`` holds.
        pairs: Images that show the same picture.
        odd: Single images that are unlike the others.
        neighbours: Test images, each beside the training image nearest to it.
    """
    return render(
        "audit.html.j2",
        name=audit["name"],
        verdict=f"{audit['verdict']}.",
        is_spoiled=bool(audit["exit_code"]),
        tiles=tiles(audit),
        findings=finding_rows(audit),
        set_facts=set_facts(audit),
        classes=class_table(audit),
        duplicates=duplicate_table(audit),
        memory=memory_table(audit),
        shortcuts=shortcut_table(audit),
        pairs=[_ready(gallery) for gallery in pairs if gallery.cases],
        odd=[_ready(gallery) for gallery in odd if gallery.cases],
        neighbours=[_ready(gallery) for gallery in neighbours if gallery.cases],
        threshold=audit["settings"]["threshold"],
        thumbnail_px=audit["settings"]["thumbnail_px"],
    )


def _ready(gallery: Gallery) -> dict[str, Any]:
    return {
        "title": gallery.title,
        "note": gallery.note,
        "hidden": gallery.hidden,
        "cases": [_shown(case) for case in gallery.cases],
    }


def _shown(case: PictureCase) -> _Shown:
    alt = f"{case.title}: {'; '.join(case.lines)}"
    return _Shown(
        picture=jpeg_picture(side_by_side(case.pictures), alt=alt),
        title=case.title,
        lines=case.lines,
        wrong=case.wrong,
    )


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One picture (H, W, 3) of several, with white between them and below the lower ones.

    Raises:
        ValueError: If there is none, or a shape is another.
    """
    if not pictures or any(p.ndim != 3 or p.shape[2] != 3 for p in pictures):
        raise ValueError(f"expected pictures (H, W, 3), got {[p.shape for p in pictures]}")
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + GAP_PX * (len(pictures) - 1)
    joined = np.full((height, width, 3), 255, np.uint8)
    start = 0
    for picture in pictures:
        joined[: picture.shape[0], start : start + picture.shape[1]] = picture
        start += picture.shape[1] + GAP_PX
    return joined
