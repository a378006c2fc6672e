"""Page of a data set audit: findings as tables, with example pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.reports.page import jpeg_picture, render, whole

SPLITS = ("train", "val", "test", "none", "all")
UNASSIGNED = {"none": "no split given", "all": "no split given"}
SHOWN_FILES = 4

GAP_PX = 6
"""White gap between the two pictures of a pair, in pixels."""


@dataclass(frozen=True, kw_only=True)
class PictureCase:
    """One or two images side by side with their description.

    Attributes:
        pictures: RGB (H, W, 3) in [0, 255], of equal height.
        title: Common property of the pictures, or what is unusual.
        lines: Text below: file and known facts of each picture.
        wrong: If True, the page marks the case.
    """

    pictures: Sequence[NDArray[np.uint8]]
    title: str
    lines: Sequence[str]
    wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures of one kind.

    Attributes:
        title: Heading.
        note: Sentence about all pictures.
        cases: The pictures.
        hidden: Number of further pictures that are not shown.
    """

    title: str
    cases: Sequence[PictureCase]
    note: str = ""
    hidden: int = 0


def audit_page(
    audit: Mapping[str, Any],
    *,
    pairs: Sequence[Gallery],
    odd: Sequence[Gallery],
    neighbours: Sequence[Gallery],
) -> str:
    """Render the page as HTML, one self-contained file.

    Args:
        audit: Content of ``audit.json``.
        pairs: Images that show the same picture.
        odd: Single images that differ from the others.
        neighbours: Test images, each beside the nearest training image.
    """
    sizes, counts, memory = (
        audit[key] for key in ("num_images_by_split", "class_counts", "memory_baseline")
    )
    metric = "accuracy" if memory is not None and "accuracy" in memory else "dice"
    splits = [name for name in SPLITS if name in counts]
    return render(
        "audit.html.j2",
        audit=audit,
        metric=metric,
        title_of_metric={"accuracy": "accuracy", "dice": "Dice"}[metric],
        sentence=_sentence,
        shown_files=SHOWN_FILES,
        split_sizes=", ".join(
            f"{UNASSIGNED.get(name, name)} {whole(sizes[name])}" for name in SPLITS if name in sizes
        ),
        heads=[UNASSIGNED.get(split, split) for split in splits],
        totals={split: sum(counts[split].values()) for split in splits},
        pairs=[_ready(gallery) for gallery in pairs if gallery.cases],
        odd=[_ready(gallery) for gallery in odd if gallery.cases],
        neighbours=[_ready(gallery) for gallery in neighbours if gallery.cases],
    )


def _sentence(text: str) -> str:
    """Add a capital and a full stop, unless the first word is a name such as ``data.protocol``."""
    first = text.split(" ")[0]
    return f"{text if '.' in first or '_' in first else text[:1].upper() + text[1:]}."


def _ready(gallery: Gallery) -> dict[str, Any]:
    """Convert the gallery with embedded pictures."""
    alts = [f"{case.title}: {'; '.join(case.lines)}" for case in gallery.cases]
    shown = [
        jpeg_picture(side_by_side(case.pictures), alt=alt)
        for case, alt in zip(gallery.cases, alts, strict=True)
    ]
    return {**vars(gallery), "cases": list(zip(gallery.cases, shown, strict=True))}


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join pictures to one (H, W, 3), with white between them and below lower ones.

    Raises:
        ValueError: If there is no picture, or a shape is invalid.
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
