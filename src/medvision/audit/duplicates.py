"""Images that occur more than once: their number, splits and targets.

Exact duplicates have equal decoded pixels, whatever the file encoding. Near-duplicates are those
found by `find_near_duplicates`, including exact ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import CROSSINGS
from medvision.data.duplicates.search import RELATIONS, THRESHOLD

MASK_DICE = 0.7
"""Thumbnail Dice below which two masks of the same picture contradict each other; neighbouring
frames in Kvasir-SEG reach at least 0.79."""

SURE = 0.97
"""Agreement of the pictures from which hardly overlapping masks are a contradiction; below it they
speak against the same picture."""

ENDS = 12
"""Images of the other split that are compared with one that is only connected through others."""

COMPARABLE = ("identical", "same", "cropped", "turned")
"""Relations of pairs whose masks are compared, after the images are aligned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: Row of the first image.
        second: Row of the second image.
        similarity: Correlation in [0, 1] after alignment; 1 for equal pixels.
        relation: One of ``RELATIONS``, or ``chain`` for images linked through other
            near-duplicates.
    """

    first: int
    second: int
    similarity: float
    relation: str

    @property
    def rows(self) -> tuple[int, int]:
        """Both rows."""
        return self.first, self.second


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Groups of images that are the same, by one definition.

    Attributes:
        groups: Group number of each image, (N,).
        splits: Split of each image, (N,).
    """

    groups: NDArray[np.int64]
    splits: NDArray[np.str_]

    def rows(self, of: str, into: str) -> NDArray[np.intp]:
        """Return the rows of split ``of`` whose group has members in split ``into``."""
        rows = np.flatnonzero(self.splits == of)
        return rows[np.isin(self.groups[rows], self.groups[self.splits == into])]

    def members(self, split: str | None = None) -> list[list[int]]:
        """Return the rows of each group of at least two in one split or in all, largest first."""
        rows = np.arange(len(self.groups))
        rows = rows if split is None else rows[self.splits == split]
        counts = np.bincount(self.groups[rows], minlength=1)
        found: defaultdict[int, list[int]] = defaultdict(list)
        for row in rows[counts[self.groups[rows]] > 1].tolist():
            found[int(self.groups[row])].append(row)
        return sorted(found.values(), key=len, reverse=True)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Result of `find_duplicates`.

    Attributes:
        exact: Groups of images with equal pixels.
        near: Groups of images that show the same picture.
        crossing: For each of ``CROSSINGS``, the images of the first split whose picture is also in
            the second, each with its most similar match; the most similar pairs first.
        conflicts: Pairs with contradicting targets, the most similar first; no image is in two
            pairs with the same kind of contradiction.
        outlines: Pairs of one picture with two masks that nearly agree, likewise.
    """

    exact: Copies
    near: Copies
    crossing: dict[tuple[str, str], list[Pair]]
    conflicts: list[Pair]
    outlines: list[Pair]


def find_duplicates(data: AuditedSet) -> Duplicates:
    """Find images that occur more than once.

    Targets contradict each other if classes differ; if other targets of equal pixels differ at all;
    or if masks of the same picture have a Dice below ``MASK_DICE`` after the images are aligned, so
    that a mask that follows a moving camera is none. Masks of mirrored, rotated and inverted copies
    are not compared. An image crosses splits if it was compared with one of the other split itself;
    being connected through others is not enough.
    """
    _, first, which = np.unique(data.properties.pixel_hash, return_index=True, return_inverse=True)
    exact = Copies(groups=first[which].astype(np.int64), splits=data.splits)
    near = Copies(groups=data.near_duplicates.groups, splits=data.splits)
    kinds = _kinds(data)
    pairs = _relevant_pairs(data, exact, kinds)
    judged = [(pair, _contradiction(data, kinds, pair)) for pair in pairs]
    return Duplicates(
        exact=exact,
        near=near,
        crossing={(of, into): _crossing(data, near, pairs, of, into) for of, into in CROSSINGS},
        conflicts=_apart(data, (pair for pair, found in judged if found == "conflict")),
        outlines=_apart(data, (pair for pair, found in judged if found == "outlines")),
    )


def duplicate_numbers(data: AuditedSet, found: Duplicates) -> dict[str, Any]:
    """Entries ``exact_duplicates``, ``near_duplicates`` and ``label_conflicts`` of audit.json."""
    counts = np.bincount(data.near_duplicates.relation, minlength=len(RELATIONS))
    crossing = [pair for pairs in found.crossing.values() for pair in pairs]
    return {
        "exact_duplicates": _numbers(data, found.exact),
        "near_duplicates": {
            **_numbers(data, found.near),
            "groups_across_splits": len({int(found.near.groups[pair.first]) for pair in crossing}),
            **{f"{of}_images_in_{into}": len(found.crossing[of, into]) for of, into in CROSSINGS},
            "threshold": THRESHOLD,
            "pairs_by_relation": dict(zip(RELATIONS, counts.tolist(), strict=True)),
            "pairs_across_splits": [pair_record(data, pair) for pair in crossing],
        },
        "label_conflicts": [
            {**pair_record(data, pair), "group": _group(data, pair)} for pair in found.conflicts
        ],
    }


def pair_record(data: AuditedSet, pair: Pair) -> dict[str, Any]:
    """Return the entry of a pair in audit.json."""
    record: dict[str, Any] = {
        "files": data.names(pair.rows),
        "splits": [data.samples.splits[row] for row in pair.rows],
        "relation": pair.relation,
        "similarity": round(pair.similarity, 4),
    }
    if data.has_classes:
        record["labels"] = [data.samples.targets[row] for row in pair.rows]
    elif data.has_masks and pair.relation in COMPARABLE:
        dice = shared_foreground(data, pair)
        record["mask_dice"] = None if dice is None else round(dice, 4)
    return record


def shared_foreground(data: AuditedSet, pair: Pair) -> float | None:
    """Compute the Dice of two masks from the foreground share in each cell of 48 x 48.

    2 Σ min(a, b) / Σ (a + b) with shares a and b; two empty masks score 1. Unless the images are
    identical, they are aligned, and only what both show is compared; None if that fails, or if one
    mask is empty where the other image continues.
    """
    a, b = (data.masks.thumbnail[row].astype(np.float32) for row in pair.rows)
    if pair.relation != "identical":
        shown = data.properties.thumbnail
        match = data.near_duplicates.match_of(shown[pair.first], shown[pair.second])
        if match is None:
            return None
        side, flags = a.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        known = cv2.warpAffine(np.ones_like(a), match.pixels, side, flags=flags)
        a, b = cv2.warpAffine(a, match.pixels, side, flags=flags) * known, b * known
    total = float(a.sum() + b.sum())
    return 2 * float(np.minimum(a, b).sum()) / total if total else 1.0


def _group(data: AuditedSet, pair: Pair) -> list[str]:
    """Return the names of all images that show the picture of a pair."""
    rows = np.flatnonzero(data.near_duplicates.groups == data.near_duplicates.groups[pair.first])
    return data.names(rows)


def _numbers(data: AuditedSet, copies: Copies) -> dict[str, Any]:
    members = copies.members()
    return {
        "groups": len(members),
        "images": sum(map(len, members)),
        "largest_group": max(map(len, members), default=0),
        "groups_across_splits": sum(len(set(copies.splits[rows])) > 1 for rows in members),
        **{f"{of}_images_in_{into}": len(copies.rows(of, into)) for of, into in CROSSINGS},
        "members": [data.names(rows) for rows in members],
    }


def _relevant_pairs(data: AuditedSet, exact: Copies, kinds: NDArray[np.str_]) -> list[Pair]:
    """Return pairs that cross splits or may contradict each other, the most similar first.

    Candidates are pairs of images with different pixels, and each copy with its original: the
    relation of one image holds for all images equal to it.
    """
    near, splits = data.near_duplicates, data.splits
    equal = {int(exact.groups[rows[0]]): rows for rows in exact.members()}
    found: dict[tuple[int, int], tuple[float, str]] = {}

    def add(one: list[int], other: list[int], similarity: float, relation: str) -> None:
        for rows, heads in ((one, _heads(data, kinds, other)), (other, _heads(data, kinds, one))):
            for row, head in product(rows, heads):
                if splits[row] != splits[head] or kinds[row] != kinds[head]:
                    found.setdefault((min(row, head), max(row, head)), (similarity, relation))

    for rows in equal.values():
        add(rows, rows, 1.0, RELATIONS[0])
    relevant = (splits[near.first] != splits[near.second]) | (
        kinds[near.first] != kinds[near.second]
    )
    repeated = np.isin(exact.groups, list(equal))
    relevant |= repeated[near.first] | repeated[near.second]
    relevant &= exact.groups[near.first] != exact.groups[near.second]
    for place in np.flatnonzero(relevant):
        one, other = (
            equal.get(int(exact.groups[row]), [int(row)])
            for row in (near.first[place], near.second[place])
        )
        relation = RELATIONS[int(near.relation[place])]
        add(one, other, float(near.similarity[place]), relation)
    pairs = [Pair(first=i, second=j, similarity=s, relation=r) for (i, j), (s, r) in found.items()]

    def order(pair: Pair) -> tuple[float, int, bool, tuple[int, int]]:
        within = splits[pair.first] == splits[pair.second]  # prefer leaks
        return -pair.similarity, RELATIONS.index(pair.relation), bool(within), pair.rows

    return sorted(pairs, key=order)


def _heads(data: AuditedSet, kinds: NDArray[np.str_], rows: list[int]) -> list[int]:
    """Return the first of these rows for each split and kind."""
    heads: dict[tuple[str, str], int] = {}
    for row in rows:
        heads.setdefault((data.samples.splits[row], str(kinds[row])), row)
    return list(heads.values())


def _crossing(
    data: AuditedSet, near: Copies, pairs: Sequence[Pair], of: str, into: str
) -> list[Pair]:
    likest: dict[int, Pair] = {}
    for pair in pairs:
        for row, other in (pair.rows, pair.rows[::-1]):
            if row not in likest and near.splits[row] == of and near.splits[other] == into:
                likest[row] = Pair(
                    first=row, second=other, similarity=pair.similarity, relation=pair.relation
                )
    there = np.flatnonzero(near.splits == into)
    for row in near.rows(of, into).tolist():
        if row not in likest:
            ends = there[near.groups[there] == near.groups[row]]
            found = _checked_end(data, row, ends)
            likest |= {} if found is None else {row: found}
    return sorted(likest.values(), key=lambda pair: (-pair.similarity, pair.first))


def _checked_end(data: AuditedSet, row: int, ends: NDArray[np.intp]) -> Pair | None:
    """Return the pair with an image of the same group that shows the same picture, or None."""
    shown = data.properties.thumbnail
    alike = [_correlation(shown[row], shown[end]) for end in ends]
    for end in ends[np.argsort(alike)[::-1][:ENDS]].tolist():
        for content, views in ((False, shown), (True, data.properties.content)):
            match = data.near_duplicates.match_of(views[row], views[end], content=content)
            if match is not None:
                alike_now = min(1.0, max(match.detail, match.shape))
                return Pair(first=row, second=end, similarity=alike_now, relation="chain")
    return None


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Correlate two thumbnails without alignment; 0 if one is constant."""
    a, b = (thumbnail.ravel().astype(np.float64) for thumbnail in (one, other))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def _kinds(data: AuditedSet) -> NDArray[np.str_]:
    """Return the values that equal images must share: the mask, the class or another target."""
    if data.has_masks:
        return data.masks.mask_hash
    return np.array(list(data.samples.targets), np.str_)


def _contradiction(
    data: AuditedSet, kinds: NDArray[np.str_], pair: Pair
) -> Literal["", "conflict", "outlines"]:
    """Judge the targets of two images that show the same picture."""
    if kinds[pair.first] == kinds[pair.second]:
        return ""
    if data.has_classes or (pair.relation == "identical" and not data.has_masks):
        return "conflict"
    if not data.has_masks or pair.relation not in COMPARABLE:
        return ""
    dice = shared_foreground(data, pair)
    if dice is None:
        return ""
    if dice >= MASK_DICE:
        return "outlines" if pair.relation == "identical" else ""
    return "conflict" if pair.similarity >= SURE else ""


def _apart(data: AuditedSet, pairs: Iterable[Pair]) -> list[Pair]:
    """Drop pairs whose images were already reported with the same two classes."""
    reported: set[tuple[int, frozenset[str]]] = set()
    kept = []
    for pair in pairs:
        targets = frozenset(data.samples.targets[row] for row in pair.rows if data.has_classes)
        if not any((row, targets) in reported for row in pair.rows):
            reported |= {(row, targets) for row in pair.rows}
            kept.append(pair)
    return kept
