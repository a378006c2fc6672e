"""Write the results of an audit: audit.json and audit.html."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.audit.check import Audit
from medvision.audit.dataset import AuditedSet
from medvision.audit.duplicates import Pair
from medvision.audit.memory import MemoryBaseline
from medvision.data.duplicates.search import RELATIONS
from medvision.errors import MedvisionError
from medvision.files import check_writable, file_errors, read_regular, write_atomically
from medvision.reports.audit import Gallery, PictureCase
from medvision.reports.plots.overlays import TRUE_COLOR, draw_contours
from medvision.types import IGNORE_INDEX

SIDE_PX = 224
MAX_PAIRS, MAX_CONFLICTS, MAX_IDENTICAL = 60, 24, 12
MAX_ODD, MAX_NEIGHBOURS = 6, 12

ODD_KINDS = {
    "constant_images": "Constant images",
    "faint_images": "Low contrast",
    "size_outliers": "Unusual size",
    "intensity_outliers": "Unusual brightness or contrast",
    "empty_masks": "Empty masks",
    "full_masks": "Full masks",
    "soft_masks": "Masks that are not binary",
    "inverted_masks": "Masks that look inverted",
    "shared_masks": "Masks shared by several images",
    "foreground_outliers": "Unusual foreground size",
}
"""Kinds of findings about single images, and the heading of their pictures."""

RELATION_WORDS = {
    "identical": "identical pixels",
    "same": "the same picture",
    "mirrored": "mirrored",
    "rotated": "rotated",
    "cropped": "cropped or with another border",
    "turned": "turned",
    "inverted": "inverted",
    "chain": "connected through other pairs",
}


def pair_galleries(audit: Audit) -> list[Gallery]:
    """Galleries of contradicting pairs, then pairs across splits, ``MAX_PAIRS`` in total."""
    data, found = audit.data, audit.duplicates
    green = "Green: outline of the mask." if data.has_masks else ""
    note = f"Least similar first, a few with identical pixels last. {green}".rstrip()

    def gallery(
        title: str, note: str, shown: Sequence[Pair], pairs: Sequence[Pair], *, wrong: bool = False
    ) -> Gallery:
        cases = [_pair(data, pair, wrong=wrong) for pair in shown]
        return Gallery(title=title, note=note, cases=cases, hidden=len(pairs) - len(shown))

    shown = found.conflicts[:MAX_CONFLICTS]
    title = f"With contradicting {data.targets_in_words}"
    galleries = [gallery(title, green, shown, found.conflicts, wrong=True)]
    left = MAX_PAIRS - len(shown)
    for (of, into), pairs in found.crossing.items():
        shown = _least_similar(pairs, left)
        left -= len(shown)
        galleries.append(gallery(f"In {of} and in {into}", note, shown, pairs))
    if any(gallery.cases for gallery in galleries):
        return galleries
    pairs = _within(data)
    return [gallery("Within the set", note, _least_similar(pairs, left), pairs)]


def odd_galleries(audit: Audit) -> list[Gallery]:
    """Galleries of the first images of each finding about single images."""
    data = audit.data
    rows = {data.shown(row): row for row in range(len(data))}
    galleries = []
    for finding in audit.findings:
        title = ODD_KINDS.get(finding.kind)
        names = [name for name in finding.files if name in rows]
        if title is None or not names:
            continue
        shown = names[:MAX_ODD]
        contours = finding.kind.endswith(("masks", "foreground_outliers"))
        galleries.append(
            Gallery(
                title=title,
                note=f"{finding.text}.",
                cases=[
                    PictureCase(
                        pictures=[_picture(data, rows[name], contours=contours)],
                        title=name.rpartition("/")[2],
                        lines=[_about(data, rows[name])],
                    )
                    for name in shown
                ],
                hidden=len(finding.files) - len(shown),
            )
        )
    return galleries


def neighbour_galleries(audit: Audit) -> list[Gallery]:
    """Galleries of test images and nearest neighbours, with and without a near-duplicate."""
    memory = audit.memory
    if memory is None:
        return []
    data = audit.data
    places = _examples(memory)
    query = "test image" if memory.protocol == "test split" else "image"
    cases = []
    for place in places:
        row, other = int(memory.rows[place]), int(memory.neighbour[place])
        value = float(memory.score[place])
        is_class = memory.metric == "accuracy"
        is_near_duplicate = data.near_duplicates.groups[row] == data.near_duplicates.groups[other]
        words = f"Dice {value:.3f}" if not is_class else "right" if value else "wrong"
        cases.append(
            PictureCase(
                pictures=_pictures(data, (row, other)),
                title=words[:1].upper()
                + words[1:]
                + (", near-duplicates" if is_near_duplicate else ""),
                lines=[f"{query}: {_named(data, row)}", f"nearest: {_named(data, other)}"],
                wrong=is_class and not value,
            )
        )
    return [
        Gallery(
            title=f"{query.capitalize()}s beside their nearest neighbours",
            note="Green: outline of the mask." if data.has_masks else "",
            cases=cases,
        )
    ]


def _examples(memory: MemoryBaseline) -> list[int]:
    """Return indices of examples with a near-duplicate, and of wrong and correct ones without."""
    middle = 1.0 if memory.metric == "accuracy" else float(np.median(memory.score))
    right = memory.score >= middle
    kinds = (
        memory.has_near_duplicate,
        ~memory.has_near_duplicate & ~right,
        ~memory.has_near_duplicate & right,
    )
    each = MAX_NEIGHBOURS // len(kinds)
    return [int(place) for kind in kinds for place in _spread(np.flatnonzero(kind), each)]


def _spread(places: NDArray[np.intp], number: int) -> NDArray[np.intp]:
    """Return up to ``number`` evenly spaced elements, because adjacent rows are often similar."""
    if len(places) <= number:
        return places
    return places[np.linspace(0, len(places) - 1, number).round().astype(np.intp)]


def _least_similar(pairs: Sequence[Pair], number: int) -> list[Pair]:
    """Select the least similar pairs of each relation in turn, then pairs with equal pixels."""
    found: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: (pair.similarity, pair.rows)):
        found[pair.relation].append(pair)
    equal = found.pop(RELATIONS[0], [])
    turns = [
        (turn, relation, pair) for relation, kind in found.items() for turn, pair in enumerate(kind)
    ]
    kept = [pair for _, _, pair in sorted(turns, key=lambda entry: entry[:2])[:number]]
    some = _spread(np.arange(len(equal)), min(MAX_IDENTICAL, number - len(kept)))
    return [*sorted(kept, key=lambda pair: pair.similarity), *(equal[place] for place in some)]


def _within(data: AuditedSet) -> list[Pair]:
    """Return the directly found pairs."""
    near = data.near_duplicates
    columns = (near.first, near.second, near.similarity, near.relation)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Pair(first=i, second=j, similarity=s, relation=RELATIONS[r]) for i, j, s, r in rows]


def _pair(data: AuditedSet, pair: Pair, *, wrong: bool = False) -> PictureCase:
    words = RELATION_WORDS[pair.relation]
    if pair.relation != "identical":
        words += f", agreement {pair.similarity:.3f}"
    sides = zip(("left", "right"), pair.rows, strict=True)
    return PictureCase(
        pictures=_pictures(data, pair.rows),
        title=words[:1].upper() + words[1:],
        lines=[f"{side}: {_named(data, row)}" for side, row in sides],
        wrong=wrong,
    )


def _named(data: AuditedSet, row: int) -> str:
    about = _about(data, row)
    return f"{data.shown(row)}" + (f" ({about})" if about else "")


def _about(data: AuditedSet, row: int) -> str:
    sample = data.samples[row]
    known = [sample.split] + ([sample.target] if data.has_classes else [])
    return ", ".join(part for part in known if part)


def _pictures(data: AuditedSet, rows: Sequence[int]) -> list[NDArray[np.uint8]]:
    return [_picture(data, row, contours=data.has_masks) for row in rows]


def _picture(data: AuditedSet, row: int, *, contours: bool) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) that fits into a square, with the outline of its mask."""
    image = data.image(row)
    height, width = image.shape[:2]
    scale = SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = np.ascontiguousarray(cv2.resize(image, size, interpolation=how), np.uint8)
    if contours and data.has_masks:
        small = cv2.resize(data.mask(row), size, interpolation=cv2.INTER_NEAREST)
        draw_contours(picture, [((small > 0) & (small != IGNORE_INDEX), TRUE_COLOR)])
    canvas = np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
    top, left = (SIDE_PX - size[1]) // 2, (SIDE_PX - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = picture
    return canvas


def check_out(out: Path, roots: Sequence[Path], *, audited: Sequence[Path] | None = None) -> None:
    """Reject a folder inside the data, or one that contains anything but an earlier audit.

    Args:
        out: Output folder.
        roots: Folders of the data set, as given by the user.
        audited: Folders that ``audit.json`` will name; an earlier audit of others is rejected.
            None accepts any earlier audit.

    Raises:
        MedvisionError: If it cannot be used.
    """
    place = out.resolve()
    for root in roots:
        if place.is_relative_to(root.resolve()):
            raise MedvisionError(
                "the results would be inside the data set",
                where=str(out),
                hint="give a folder outside it with --out",
            )
    check_writable(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise MedvisionError(
            "expected a folder, got a file", where=str(out), hint="give a new folder with --out"
        )
    stored = _stored_audit(out)
    if stored is None:
        if any(out.iterdir()):
            raise MedvisionError(
                "exists and is not empty", where=str(out), hint="give a new folder with --out"
            )
        return
    named = stored.get("roots")
    if audited is None or not isinstance(named, list):
        return
    others = [Path(str(root)) for root in named]
    if [path.resolve() for path in others] != [path.resolve() for path in audited]:
        raise MedvisionError(
            f"contains the audit of another data set: {', '.join(map(str, others))}",
            where=str(out),
            hint="give a new folder with --out, or delete this one",
        )


def write_audit(audit: Audit, out: Path) -> list[Path]:
    """Write ``audit.json`` and ``audit.html``, replacing earlier ones.

    Args:
        audit: Result of the audit.
        out: Output folder, created if missing.

    Returns:
        The files.

    Raises:
        MedvisionError: If the folder cannot be written.
    """
    from medvision.reports.audit import audit_page

    content = audit.to_dict()
    page = audit_page(
        content,
        pairs=pair_galleries(audit),
        odd=odd_galleries(audit),
        neighbours=neighbour_galleries(audit),
    )
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    files = {out / "audit.json": text, out / "audit.html": page}
    with file_errors("cannot write the audit", out, hint="give a writable folder with --out"):
        out.mkdir(parents=True, exist_ok=True)
        for path, written in files.items():
            write_atomically(path, written)
    return list(files)


def _stored_audit(folder: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads(read_regular(folder / "audit.json"))
    except (OSError, ValueError):  # no audit or no JSON: an unrelated folder
        return None
    is_audit = isinstance(stored, dict) and {"near_duplicates", "findings"} <= stored.keys()
    return stored if is_audit else None
