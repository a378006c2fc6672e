"""Images that occur more than once: their number, splits and targets.

Exact duplicates have equal decoded pixels, whatever the file encoding. Near-duplicates are those
found by `find_near_duplicates`, including exact ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import CROSSINGS
from medvision.data.duplicates.search import RELATIONS, THRESHOLD

MASK_DICE = 0.7
"""Thumbnail Dice below which two masks of the same picture contradict each other; neighbouring
frames in Kvasir-SEG reach at least 0.79."""

COMPARABLE = ("identical", "same")
"""Relations of pairs whose masks are aligned."""


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
    """

    exact: Copies
    near: Copies
    crossing: dict[tuple[str, str], list[Pair]]
    conflicts: list[Pair]


def find_duplicates(data: AuditedSet) -> Duplicates:
    """Find images that occur more than once.

    Targets contradict each other if classes differ; if masks, or any other targets, of equal pixels
    differ at all; or if aligned masks of the same picture have a Dice below ``MASK_DICE``. Masks of
    mirrored, rotated and cropped copies are not compared.
    """
    _, first, which = np.unique(data.properties.pixel_hash, return_index=True, return_inverse=True)
    exact = Copies(groups=first[which].astype(np.int64), splits=data.splits)
    near = Copies(groups=data.near_duplicates.groups, splits=data.splits)
    kinds = _kinds(data)
    pairs = _relevant_pairs(data, exact, kinds)
    return Duplicates(
        exact=exact,
        near=near,
        crossing={(of, into): _crossing(data, near, pairs, of, into) for of, into in CROSSINGS},
        conflicts=_apart(data, (pair for pair in pairs if _contradict(data, kinds, pair))),
    )


def duplicate_numbers(data: AuditedSet, found: Duplicates) -> dict[str, Any]:
    """Entries ``exact_duplicates``, ``near_duplicates`` and ``label_conflicts`` of audit.json."""
    counts = np.bincount(data.near_duplicates.relation, minlength=len(RELATIONS))
    crossing = [pair for pairs in found.crossing.values() for pair in pairs]
    return {
        "exact_duplicates": _numbers(data, found.exact),
        "near_duplicates": {
            **_numbers(data, found.near),
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
        record["mask_dice"] = round(shared_foreground(data, *pair.rows), 4)
    return record


def shared_foreground(data: AuditedSet, one: int, other: int) -> float:
    """Compute the Dice of two masks from the foreground share in each cell of 48 x 48.

    2 Σ min(a, b) / Σ (a + b) with shares a and b; two empty masks score 1.
    """
    a, b = (data.masks.thumbnail[row].astype(np.int64) for row in (one, other))
    total = int(a.sum() + b.sum())
    return 2 * int(np.minimum(a, b).sum()) / total if total else 1.0


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
    in_group = dict(zip(near.groups[there[::-1]].tolist(), there[::-1].tolist(), strict=True))
    for row in near.rows(of, into).tolist():
        if row not in likest:
            other = in_group[int(near.groups[row])]
            alike = _correlation(data, row, other)
            likest[row] = Pair(first=row, second=other, similarity=alike, relation="chain")
    return sorted(likest.values(), key=lambda pair: (-pair.similarity, pair.first))


def _correlation(data: AuditedSet, one: int, other: int) -> float:
    """Correlate the thumbnails without alignment; 0 if one is constant or the value is negative."""
    a, b = (data.properties.thumbnail[row].ravel().astype(np.float64) for row in (one, other))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return max(0.0, float(a @ b) / norm) if norm else 0.0


def _kinds(data: AuditedSet) -> NDArray[np.str_]:
    """Return the values that equal images must share: the mask, the class or another target."""
    if data.has_masks:
        return data.masks.mask_hash
    return np.array(list(data.samples.targets), np.str_)


def _contradict(data: AuditedSet, kinds: NDArray[np.str_], pair: Pair) -> bool:
    if kinds[pair.first] == kinds[pair.second]:
        return False
    if data.has_classes or pair.relation == "identical":
        return True
    if not data.has_masks:
        return False
    return pair.relation in COMPARABLE and shared_foreground(data, *pair.rows) < MASK_DICE


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
