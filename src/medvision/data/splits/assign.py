"""Draw train, val and test so that groups stay whole and existing samples keep their split.

There are four protocols. ``official`` keeps the given split: scores compare with those that others
report on it. ``merged`` pools and draws single images, as most published scores do, and leaks
wherever images repeat. ``grouped`` pools and draws whole groups: patients, and images that look the
same. ``kfold`` does so ``folds`` times, so that every image is tested once.

A group goes where u = (first 8 bytes of SHA-256("{seed}, NUL, {group}")) / 2^64 puts it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.data.duplicates.search import count_crossing, join
from medvision.data.samples import Sample, SampleTable, StringColumn
from medvision.errors import MedvisionError, did_you_mean
from medvision.types import STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The groups of N samples, G of them.

    Attributes:
        of_sample: (N,) group of each sample, in [0, G).
        first: (G,) the first sample of each.
        u: (G,) what is drawn for each, in [0, 1], ascending.
    """

    of_sample: NDArray[np.intp]
    first: NDArray[np.intp]
    u: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)


def draw_groups(samples: SampleTable, *, seed: int) -> Groups:
    """Number the groups of the samples, and draw u for each.

    Groups are told apart by u: the names of a million of them need not be held at once.
    """
    drawn = bytearray()
    for key in samples.group_keys():
        drawn += hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8]
    numbers = np.frombuffer(drawn, ">u8").astype(np.uint64)
    found, first, of_sample = np.unique(numbers, return_index=True, return_inverse=True)
    return Groups(of_sample=of_sample, first=first, u=found / np.float64(2**64))


_KEYS = "data.val_fraction, data.test_fraction"
_ENOUGH = 5  # samples expected in a split, from which on a share can be judged
_NAMES = ("", *STAGES)
_CODE = {name: code for code, name in enumerate(_NAMES)}

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitResult:
    """The samples in the order given, each with its split, and notes on what is odd."""

    samples: SampleTable
    notes: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Places:
    """Where each of G groups goes.

    Attributes:
        samples: All of them.
        groups: Their groups.
        split: uint8 (G,), index into ``_NAMES``; changed in place.
        movable: (G,) whether the group may go elsewhere.
    """

    samples: SampleTable
    groups: Groups
    split: NDArray[np.uint8]
    movable: NDArray[np.bool_]

    def spare(self, own: NDArray[np.intp], split: str) -> NDArray[np.intp] | None:
        """Those of some groups that their splits can spare; None where the split holds one."""
        held = np.bincount(self.split[own], minlength=len(_NAMES))
        if held[_CODE[split]]:
            return None
        return own[self.movable[own] & (held[self.split[own]] > 1)]

    def move_nearest(
        self, spare: NDArray[np.intp], split: str, interval: Interval, *, lacking: str
    ) -> str:
        """Move that of the spare groups whose u is nearest to the interval; return a note."""
        low, high = interval
        u = self.groups.u[spare]
        distance = np.maximum(np.maximum(low - u, u - high), 0.0)
        near = spare[distance == distance.min()]  # of equally near ones the first by name
        nearest = min(
            near.tolist(), key=lambda group: self.samples[int(self.groups.first[group])].group_key
        )
        self.split[nearest] = _CODE[split]
        return (
            f"{split} would have {lacking}, so one group was moved into it;"
            " a set this small may be split anew when files are added:"
            " keep this split with data.splits=RUN/splits.csv"
        )


def draw_split(
    samples: Sequence[Sample],
    *,
    seed: int,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    stratify_by: Sequence[str] | None = None,
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
        stratify_by: Class or foreground stratum of each sample; a split with other shares than the
            whole set is noted, nothing is moved for it.
        every_stratum: Move the nearest group of a stratum into a drawn val or test that has none
            of it, with a note: without one of the classes, scores are undefined.

    Raises:
        MedvisionError: If the fractions are impossible, or groups are fewer than splits.
    """
    _check_fractions(val_fraction, test_fraction)
    if stratify_by is not None and len(stratify_by) != len(samples):
        raise ValueError(f"expected {len(samples)} strata, got {len(stratify_by)}")
    intervals = {
        "test": (0.0, test_fraction),
        "val": (test_fraction, test_fraction + val_fraction),
        "train": (test_fraction + val_fraction, 1.0),
    }
    wanted = [split for split, (low, high) in intervals.items() if high > low]
    table = SampleTable.of(samples)
    own = _codes(table.splits)
    groups = draw_groups(table, seed=seed)
    inside = np.zeros((len(groups), len(_NAMES)), bool)  # which splits a group has samples in
    inside[groups.of_sample, own] = True
    given = inside[:, 1:]
    in_given = {STAGES[k] for k in np.flatnonzero(given.any(axis=0)).tolist()}
    missing = [split for split in wanted if in_given and split not in in_given]
    unplaced = ~given.any(axis=1)
    if "train" in missing and not unplaced.any():
        raise MedvisionError(
            f"the given split has no train, only {', '.join(sorted(in_given))}",
            where="data.root",
            hint="add the samples of train",
        )

    drawn = np.full(len(groups), _CODE["train"], np.uint8)  # u rounds to 1 once in 2^54
    for name, (low, high) in intervals.items():
        drawn[(low <= groups.u) & (groups.u < high)] = _CODE[name]
    # Of a split that is missing, the groups are drawn from those that are in train alone.
    lent = inside[:, _CODE["train"]] & (given.sum(axis=1) == 1) & bool(missing)
    to_missing = np.isin(drawn, [_CODE[name] for name in missing])
    place = np.where(unplaced | (lent & to_missing), drawn, 1 + given.argmax(axis=1))
    places = _Places(
        samples=table, groups=groups, split=place.astype(np.uint8), movable=unplaced | lent
    )
    held = given[~places.movable].any(axis=0)
    fixed = {STAGES[k] for k in np.flatnonzero(held).tolist()}
    free = {split: intervals[split] for split in wanted if split not in fixed}
    notes = _fill_empty(places, free)
    kinds = StringColumn.of(stratify_by or ()).numbered()
    if every_stratum:
        notes += _fill_strata(places, *kinds, free)
    moved = (own == 0) | places.movable[groups.of_sample]
    final = np.where(moved, places.split[groups.of_sample], own)
    result = table.with_column(splits=StringColumn.coded(_NAMES, final))
    torn = given.sum(axis=1) > 1
    if torn.any():
        notes.append(_leak_note(own, torn[groups.of_sample], int(torn.sum())))
    return SplitResult(samples=result, notes=notes + _compare_shares(final, *kinds))


def _codes(splits: StringColumn) -> NDArray[np.intp]:
    """Index into ``_NAMES`` of each sample's split, (N,)."""
    names, number = splits.numbered()
    return np.array([_CODE[name] for name in names], np.intp)[number]


_STRATA = ("empty", "small", "medium", "large")


def foreground_strata(shares: Sequence[float]) -> list[str]:
    """Sort foreground shares in [0, 1] into ``empty`` and the thirds of all others.

    Returns:
        ``empty``, ``small``, ``medium`` or ``large`` for each share.
    """
    values = np.array(shares)
    filled = values[values > 0]
    low, high = np.quantile(filled, [1 / 3, 2 / 3]) if len(filled) else (0, 0)
    ranks = np.where(values > 0, 1 + (values > low) + (values > high), 0)
    return [_STRATA[rank] for rank in ranks.tolist()]


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    in_range = val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1
    if not in_range:  # written so that NaN fails too
        raise MedvisionError(
            f"expected fractions of at least 0 with a sum below 1, got val {val_fraction}"
            f" and test {test_fraction}",
            where=_KEYS,
            hint="0.1 each is usual",
        )


def _fill_empty(places: _Places, wanted: Mapping[str, Interval]) -> list[str]:
    """Move the nearest group into each wanted split that is empty, and say so."""
    notes, every = [], np.arange(len(places.groups))
    for split, interval in wanted.items():
        spare = places.spare(every, split)
        if spare is None:
            continue
        if not len(spare):
            raise MedvisionError(
                f"no space for a split: {len(places.groups)} groups, none is free for {split}",
                where=_KEYS,
                hint="add images, or set the fraction of a split you can do without to 0",
            )
        notes.append(places.move_nearest(spare, split, interval, lacking="been empty"))
    return notes


def _fill_strata(
    places: _Places,
    names: Sequence[str],
    of_sample: NDArray[np.intp],
    wanted: Mapping[str, Interval],
) -> list[str]:
    """Move the nearest group of each stratum that a held-out split lacks into it, and say so."""
    of_group = places.groups.of_sample
    members = [np.unique(of_group[of_sample == k]) for k in range(len(names))]
    notes = []
    for split, interval in wanted.items():
        for name, own in zip(names, members, strict=True):
            spare = None if split == "train" else places.spare(own, split)
            if spare is not None and len(spare):
                notes.append(places.move_nearest(spare, split, interval, lacking=f"held no {name}"))
    return notes


def _leak_note(splits: NDArray[np.intp], is_torn: NDArray[np.bool_], num_torn: int) -> str:
    told = []
    for split in ("test", "val"):
        leaks = is_torn[splits == _CODE[split]]
        if leaks.any():
            told.append(f"{leaks.sum()} of {len(leaks)} {split} images")
    return (
        f"LEAK: {num_torn} groups ({', '.join(told)}) lie in more than one of the given splits;"
        " nothing was moved"
    )


def _compare_shares(
    splits: NDArray[np.intp], names: Sequence[str], of_sample: NDArray[np.intp]
) -> list[str]:
    """Note strata that a split lacks, or holds at less than half or more than twice their share."""
    notes = []
    overall = dict(zip(names, np.bincount(of_sample).tolist(), strict=True))
    for split in STAGES if names else ():
        found = np.bincount(of_sample[splits == _CODE[split]], minlength=len(names)).tolist()
        counts = {name: count for name, count in zip(names, found, strict=True) if count}
        size = sum(found)
        lacking = [name for name in names if size and name not in counts]
        if lacking:
            notes.append(f"{split} ({size} images) holds no {', no '.join(lacking)}")
        for name, count in counts.items() if split != "train" else ():
            expected = overall[name] * size / len(splits)
            off = not 0.5 <= count / expected <= 2
            if off and expected >= _ENOUGH:
                notes.append(
                    f"{split} holds {count} {name} of {size} images,"
                    f" its share of the whole set would be {expected:.0f}"
                )
    return notes


PROTOCOLS = ("official", "merged", "grouped", "kfold")


def apply_protocol(
    samples: Sequence[Sample],
    *,
    protocol: str,
    fold: int,
    folds: int,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    near_duplicates: Sequence[int] | NDArray[np.int64] | None,
    stratify_by: Sequence[str] | None,
    every_stratum: bool = False,
    keep: bool = False,
) -> SplitResult:
    """Give every sample its split, and as its group all that must stay together.

    All but ``official`` drop the given splits, unless they are to be kept. Images that share a
    group or are twins make one group, named after its first image or patient in the alphabet;
    ``merged`` knows no groups. So a new image moves old ones only if it is their twin and comes
    before them in the alphabet, or ties two groups; in a kept split it moves none, and ``LEAK``
    is noted.

    Args:
        samples: In any order, with given splits or empty ones.
        protocol: One of ``PROTOCOLS``.
        fold: Which part is test, in [0, folds); only read by ``kfold``.
        folds: Number of parts, at least 2; only read by ``kfold``.
        seed: Another seed draws another split.
        val_fraction: Share of val where it is drawn; for ``kfold`` of what is not test.
        test_fraction: Share of test where it is drawn; ``kfold`` does not read it.
        near_duplicates: Group of each sample as `find_near_duplicates` numbers them; None: unknown.
        stratify_by: Class or foreground stratum of each sample, as for `draw_split`.
        every_stratum: As for `draw_split`.
        keep: Keep the given splits, those of an earlier run, and draw for the rest only.

    Raises:
        MedvisionError: If the protocol or the fold does not exist, a split is to be kept that the
            protocol would draw anew, or a split has no space.
    """
    if protocol not in PROTOCOLS:
        nearest = did_you_mean(protocol, PROTOCOLS, otherwise=f"use {', '.join(PROTOCOLS)}")
        raise MedvisionError(f"unknown protocol {protocol}", where="data.protocol", hint=nearest)
    if keep and protocol in ("merged", "kfold"):
        raise MedvisionError(
            f"the protocol {protocol} draws its own split, and a split is given",
            where="data.splits",
            hint="leave one of data.splits and data.protocol out",
        )
    if near_duplicates is not None and len(near_duplicates) != len(samples):
        raise ValueError(f"expected {len(samples)} groups, got {len(near_duplicates)}")
    placed = SampleTable.of(samples)
    notes = []
    if protocol == "merged":
        placed = placed.with_column(groups=StringColumn.blank(len(placed)))
    else:
        placed = join_groups(placed, near_duplicates)
    if protocol != "official" and not keep:
        placed = placed.with_column(splits=StringColumn.blank(len(placed)))
    if protocol in ("grouped", "kfold") and near_duplicates is None:
        notes.append("near-duplicates were not looked for: only known groups stay together")
    if protocol == "kfold":
        placed = _test_fold(placed, fold=fold, folds=folds, seed=seed)
        seed, test_fraction = ~seed, 0.0  # val needs a second hash: the first chose the fold
    drawn = draw_split(
        placed,
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        stratify_by=stratify_by,
        every_stratum=every_stratum,
    )
    if protocol == "merged":
        notes.append(_merged_note(drawn.samples, near_duplicates))
    return SplitResult(samples=drawn.samples, notes=notes + drawn.notes)


def join_groups(
    samples: Sequence[Sample], near_duplicates: Sequence[int] | NDArray[np.int64] | None
) -> SampleTable:
    """Join the groups that twins tie together; an image alone keeps its empty group.

    Args:
        samples: With the groups that are known.
        near_duplicates: As for `apply_protocol`.
    """
    table = SampleTable.of(samples)
    if near_duplicates is None or not len(table):
        return table
    keys, of_sample = StringColumn.of(table.group_keys()).numbered()
    _, first, which = np.unique(np.asarray(near_duplicates), return_index=True, return_inverse=True)
    of_key = join(np.arange(len(keys)), of_sample, of_sample[first][which])
    # Groups are numbered in the order of their first keys: that key is the name.
    names = np.unique(of_key, return_index=True)[1]
    sizes = np.bincount(of_key)
    joined = (
        keys[names[group]] if sizes[group] > 1 else own
        for own, group in zip(table.groups, of_key[of_sample].tolist(), strict=True)
    )
    return table.with_column(groups=joined)


def _test_fold(samples: SampleTable, *, fold: int, folds: int, seed: int) -> SampleTable:
    """Put the groups whose u lies in [fold / folds, (fold + 1) / folds) into test."""
    if folds < 2:
        raise MedvisionError(
            f"expected at least 2 folds, got {folds}", where="data.folds", hint="5 is usual"
        )
    if not 0 <= fold < folds:
        raise MedvisionError(
            f"there is no fold {fold} of {folds}",
            where="data.fold",
            hint=f"folds are counted from 0 to {folds - 1}",
        )
    groups = draw_groups(samples, seed=seed)
    tested = np.minimum((groups.u * folds).astype(np.int64), folds - 1) == fold
    if not tested.any() or tested.all():
        raise MedvisionError(
            f"fold {fold} of {folds} holds {tested.sum()} of {len(groups)} groups",
            where="data.folds",
            hint="use fewer folds, another seed or more images",
        )
    return samples.with_column(
        splits=StringColumn.coded(["", "test"], tested[groups.of_sample].astype(np.uint8))
    )


def _merged_note(
    samples: SampleTable, near_duplicates: Sequence[int] | NDArray[np.int64] | None
) -> str:
    found = "near-duplicates were not looked for"
    if near_duplicates is not None:
        splits = list(samples.splits)
        crossing = count_crossing(near_duplicates, splits)[1]
        found = f"{crossing} of {splits.count('test')} test images have a near-duplicate in train"
    return (
        f"THE MERGED PROTOCOL LEAKS: it splits patients and near-duplicates apart; {found};"
        " data.protocol=grouped keeps them together"
    )
