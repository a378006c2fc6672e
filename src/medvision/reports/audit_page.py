"""The page of an audit: what is wrong with a data set, with the pictures that show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.reports.audit_tables import (
    class_table,
    duplicate_table,
    finding_rows,
    memory_table,
    set_facts,
    shortcut_table,
    tiles,
)
from medvision.reports.page import Picture, jpeg_picture, render

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
