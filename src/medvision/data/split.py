r"""Draw train, val and test so that groups stay whole and old samples stay where they are.

Where a group goes depends on nothing but the seed and its name,

    u = (first 8 bytes of SHA-256("{seed}\0{group}")) / 2^64

and u < test_fraction means test, u < test_fraction + val_fraction means val, the rest train. So
files added later move none of the old ones, and every class or foreground stratum is split in
the same shares in expectation.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medvision.data.sample import Sample
from medvision.types import STAGES, MedvisionError

_KEYS = "data.val_fraction, data.test_fraction"
_ENOUGH = 5  # samples expected in a split, from which on a share can be judged


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitResult:
    """The samples in the order given, each with its split, and notes on what is odd."""

    samples: list[Sample]
    notes: list[str]


def draw_split(
    samples: Sequence[Sample],
    *,
    seed: int,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    strata: Sequence[str] | None = None,
    every_stratum: bool = False,
) -> SplitResult:
    """Give every sample without a split one; move none that has one.

    A group with a sample in a given split joins it. Where some splits are given and val or
    test is not, the missing one is drawn from the groups of train. A wanted split that stays
    empty gets the group nearest to it, and a note.

    Args:
        samples: With given splits or empty ones.
        seed: Another seed draws another split.
        val_fraction: Share of the groups in val; 0 wants none.
        test_fraction: Share of the groups in test; 0 wants none.
        strata: Class or foreground stratum of each sample; a split with other shares than the
            whole set is noted, nothing is moved for it.
        every_stratum: Move the nearest group of a stratum into a drawn val or test that has none
            of it, with a note: without one of the classes, scores are undefined.

    Raises:
        MedvisionError: If the fractions are impossible, or groups are fewer than splits.
    """
    _check_fractions(val_fraction, test_fraction)
    if strata is not None and len(strata) != len(samples):
        raise ValueError(f"expected {len(samples)} strata, got {len(strata)}")
    intervals = {
        "test": (0.0, test_fraction),
        "val": (test_fraction, test_fraction + val_fraction),
        "train": (test_fraction + val_fraction, 1.0),
    }
    wanted = [split for split, (low, high) in intervals.items() if high > low]
    given: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        given[sample.group_key] |= {sample.split} - {""}
    in_given = set().union(*given.values())
    missing = [split for split in wanted if in_given and split not in in_given]
    if "train" in missing and all(given.values()):
        raise MedvisionError(
            f"the given split has no train, only {', '.join(sorted(in_given))}",
            where="data.root",
            hint="add the samples of train",
        )

    place: dict[str, str] = {}
    movable: dict[str, float] = {}
    for group, splits in given.items():
        u = uniform(seed, group)
        inside = (name for name, (low, high) in intervals.items() if low <= u < high)
        drawn = next(inside, "train")  # u rounds to 1 once in 2^54
        if not splits:
            place[group], movable[group] = drawn, u
        elif splits == {"train"} and missing:
            place[group], movable[group] = drawn if drawn in missing else "train", u
        else:
            place[group] = next(split for split in STAGES if split in splits)
    fixed = set().union(*(splits for group, splits in given.items() if group not in movable))
    free = {split: intervals[split] for split in wanted if split not in fixed}
    notes = _fill_empty(place, movable, free)
    if every_stratum:
        notes += _fill_strata(samples, strata or [], place, movable, free)
    drawn_samples = [
        replace(s, split=place[s.group_key]) if not s.split or s.group_key in movable else s
        for s in samples
    ]
    torn = {group for group, splits in given.items() if len(splits) > 1}
    if torn:
        notes.append(_leak_note(samples, torn))
    return SplitResult(
        samples=drawn_samples, notes=notes + _compare_shares(drawn_samples, strata or [])
    )


def foreground_strata(shares: Sequence[float]) -> list[str]:
    """Sort foreground shares in [0, 1] into ``empty`` and the thirds of all others.

    Returns:
        ``empty``, ``small``, ``medium`` or ``large`` for each share.
    """
    filled = [share for share in shares if share > 0]
    if not filled:
        return ["empty"] * len(shares)
    low, high = np.quantile(filled, [1 / 3, 2 / 3])

    def stratum(share: float) -> str:
        if share <= 0:
            return "empty"
        return "small" if share <= low else "medium" if share <= high else "large"

    return [stratum(share) for share in shares]


def uniform(seed: int, group: str) -> float:
    """Return the number u in [0, 1] that decides where a group goes."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    in_range = val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1
    if not in_range:  # written so that NaN fails too
        raise MedvisionError(
            f"expected fractions of at least 0 with a sum below 1, got val {val_fraction}"
            f" and test {test_fraction}",
            where=_KEYS,
            hint="0.1 each is usual",
        )


def _fill_empty(
    place: dict[str, str],
    movable: dict[str, float],
    wanted: dict[str, tuple[float, float]],
) -> list[str]:
    """Move the nearest group into each wanted split that is empty, and say so."""
    notes = []
    for split, (low, high) in wanted.items():
        held = Counter(place.values())
        if held[split]:
            continue
        nearest = min(
            (max(low - u, u - high, 0.0), group)
            for group, u in [*movable.items(), ("", float("inf"))]
            if not group or held[place[group]] > 1
        )[1]
        if not nearest:
            raise MedvisionError(
                f"no space for a split: {len(place)} groups, none is free for {split}",
                where=_KEYS,
                hint="add images, or set the fraction of a split you can do without to 0",
            )
        place[nearest] = split
        notes.append(
            f"{split} would have been empty, so one group was moved into it;"
            " a set this small may be split anew when files are added:"
            " keep this split with data.splits=RUN/splits.csv"
        )
    return notes


def _fill_strata(
    samples: Sequence[Sample],
    strata: Sequence[str],
    place: dict[str, str],
    movable: dict[str, float],
    wanted: dict[str, tuple[float, float]],
) -> list[str]:
    """Move the nearest group of each stratum that a held-out split lacks into it, and say so."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for sample, stratum in zip(samples, strata, strict=True):
        groups[stratum].add(sample.group_key)
    notes = []
    for split, (low, high) in wanted.items():
        for stratum, members in sorted(groups.items()):
            held = Counter(place[group] for group in members)
            spare = [group for group in members & movable.keys() if held[place[group]] > 1]
            if split == "train" or held[split] or not spare:
                continue
            nearest = min((max(low - movable[g], movable[g] - high, 0.0), g) for g in spare)[1]
            place[nearest] = split
            notes.append(
                f"{split} would have held no {stratum}, so one group was moved into it;"
                " a set this small may be split anew when files are added:"
                " keep this split with data.splits=RUN/splits.csv"
            )
    return notes


def _leak_note(samples: Sequence[Sample], torn: set[str]) -> str:
    told = []
    for split in ("test", "val"):
        leaks = [sample.group_key in torn for sample in samples if sample.split == split]
        if any(leaks):
            told.append(f"{sum(leaks)} of {len(leaks)} {split} images")
    return (
        f"LEAK: {len(torn)} groups ({', '.join(told)}) lie in more than one of the given splits;"
        " nothing was moved"
    )


def _compare_shares(samples: Sequence[Sample], strata: Sequence[str]) -> list[str]:
    """Note strata that a split lacks, or holds at less than half or more than twice their share."""
    notes = []
    overall = Counter(strata)
    for split in STAGES:
        counts = Counter(
            stratum
            for sample, stratum in zip(samples, strata, strict=False)
            if sample.split == split
        )
        size = counts.total()
        lacking = [stratum for stratum in sorted(overall) if size and not counts[stratum]]
        if lacking:
            notes.append(f"{split} ({size} images) holds no {', no '.join(lacking)}")
        for stratum in sorted(counts) if split != "train" else []:
            expected = overall[stratum] * size / len(samples)
            off = not 0.5 <= counts[stratum] / expected <= 2
            if off and expected >= _ENOUGH:
                notes.append(
                    f"{split} holds {counts[stratum]} {stratum} of {size} images,"
                    f" its share of the whole set would be {expected:.0f}"
                )
    return notes
