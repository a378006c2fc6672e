"""Draw train, val and test with intact groups, keeping the split of existing samples.

There are four protocols. ``official`` keeps the given split, so that scores are comparable with
published ones. ``merged`` pools and draws single images, as most publications do, and leaks if
images repeat. ``grouped`` pools and draws whole groups: patients and near-duplicates. ``kfold``
does so ``folds`` times, so that every image is tested once.

A group is assigned by u = (first 8 bytes of SHA-256("{seed}, NUL, {group}")) / 2^64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.console import counted
from medvision.data.duplicates.search import count_crossing, join
from medvision.data.samples import Sample, SampleTable, StringColumn
from medvision.errors import MedvisionError, did_you_mean
from medvision.types import STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The G groups of N samples.

    Attributes:
        of_sample: (N,) group index of each sample, in [0, G).
        first: (G,) first sample of each group.
        u: (G,) random number of each group in [0, 1], ascending.
    """

    of_sample: NDArray[np.intp]
    first: NDArray[np.intp]
    u: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)


def draw_groups(samples: SampleTable, *, seed: int) -> Groups:
    """Number the groups of the samples and compute u for each.

    Groups are identified by u, so that a million names need not be in memory at once.
    """
    drawn = bytearray()
    for key in samples.group_keys():
        drawn += hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8]
    numbers = np.frombuffer(drawn, ">u8").astype(np.uint64)
    found, first, of_sample = np.unique(numbers, return_index=True, return_inverse=True)
    return Groups(of_sample=of_sample, first=first, u=found / np.float64(2**64))


_KEYS = "data.val_fraction, data.test_fraction"
_ENOUGH = 5  # expected samples in a split required to judge a share
_NAMES = ("", *STAGES)
_CODE = {name: code for code, name in enumerate(_NAMES)}

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitResult:
    """Samples in the given order, each with its split, and notes on irregularities."""

    samples: SampleTable
    notes: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Places:
    """Split of each of G groups.

    Attributes:
        samples: All samples.
        groups: Groups of the samples.
        split: uint8 (G,), index into ``_NAMES``; changed in place.
        movable: (G,) True if the group may be moved to another split.
    """

    samples: SampleTable
    groups: Groups
    split: NDArray[np.uint8]
    movable: NDArray[np.bool_]

    def spare(self, own: NDArray[np.intp], split: str) -> NDArray[np.intp] | None:
        """Return groups of ``own`` that can leave their split; None if ``split`` contains one."""
        held = np.bincount(self.split[own], minlength=len(_NAMES))
        if held[_CODE[split]]:
            return None
        return own[self.movable[own] & (held[self.split[own]] > 1)]

    def move_nearest(
        self, spare: NDArray[np.intp], split: str, interval: Interval, *, lacking: str
    ) -> str:
        """Move the spare group with u nearest to the interval; return a note."""
        low, high = interval
        u = self.groups.u[spare]
        distance = np.maximum(np.maximum(low - u, u - high), 0.0)
        near = spare[distance == distance.min()]  # the first by name of equally near ones
        nearest = min(
            near.tolist(), key=lambda group: self.samples[int(self.groups.first[group])].group_key
        )
        self.split[nearest] = _CODE[split]
        return (
            f"moved one group into {split}, which would have {lacking};"
            " adding files to such a small set may change its split:"
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
    """Assign a split to every sample without one; keep existing splits.

    A group with a sample in a given split joins it. If some splits are given but val or test is
    not, the missing one is drawn from the groups of train. A requested split that remains empty
    gets the nearest group, with a note.

    Args:
        samples: Samples with given or empty splits.
        seed: Seed of the draw.
        val_fraction: Share of the groups in val; 0 for none.
        test_fraction: Share of the groups in test; 0 for none.
        stratify_by: Class or foreground stratum of each sample; a split whose shares differ from
            the whole data set is noted, but no group is moved.
        every_stratum: If True, move the nearest group of each stratum missing from a drawn val or
            test into it, with a note, because scores are undefined without one of the classes.

    Raises:
        MedvisionError: If the fractions are invalid, or there are fewer groups than splits.
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
    inside = np.zeros((len(groups), len(_NAMES)), bool)  # splits in which a group has samples
    inside[groups.of_sample, own] = True
    given = inside[:, 1:]
    in_given = {STAGES[k] for k in np.flatnonzero(given.any(axis=0)).tolist()}
    missing = [split for split in wanted if in_given and split not in in_given]
    unplaced = ~given.any(axis=1)
    if "train" in missing and not unplaced.any():
        raise MedvisionError(
            f"the given split has only {', '.join(sorted(in_given))}, train is missing",
            where="data.root",
            hint="add training samples",
        )

    drawn = np.full(len(groups), _CODE["train"], np.uint8)  # u rounds to 1 with probability 2^-54
    for name, (low, high) in intervals.items():
        drawn[(low <= groups.u) & (groups.u < high)] = _CODE[name]
    # The groups of a missing split are drawn from those that are only in train.
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
    notes += _note_uneven(places, free)
    moved = (own == 0) | places.movable[groups.of_sample]
    final = np.where(moved, places.split[groups.of_sample], own)
    result = table.with_column(splits=StringColumn.coded(_NAMES, final))
    torn = given.sum(axis=1) > 1
    if torn.any():
        notes.append(_leak_note(own, torn[groups.of_sample], int(torn.sum())))
    return SplitResult(samples=result, notes=notes + _compare_shares(final, *kinds))


def _codes(splits: StringColumn) -> NDArray[np.intp]:
    """Return the index into ``_NAMES`` of each sample's split, (N,)."""
    names, number = splits.numbered()
    return np.array([_CODE[name] for name in names], np.intp)[number]


_ENOUGH_GROUPS = 4  # expected ones, below which any number is usual
_STRATA = ("empty", "small", "medium", "large")


def foreground_strata(shares: Sequence[float]) -> list[str]:
    """Divide foreground shares in [0, 1] into ``empty`` and terciles of the others.

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
    if not in_range:  # also rejects NaN
        raise MedvisionError(
            f"expected non-negative fractions with a sum below 1, got val {val_fraction}"
            f" and test {test_fraction}",
            where=_KEYS,
            hint="the default is 0.1 each",
        )


def _fill_empty(places: _Places, wanted: Mapping[str, Interval]) -> list[str]:
    """Move the nearest group into each empty requested split, with a note."""
    notes, every = [], np.arange(len(places.groups))
    for split, interval in wanted.items():
        spare = places.spare(every, split)
        if spare is None:
            continue
        if not len(spare):
            raise MedvisionError(
                f"too few groups for a split: {len(places.groups)}, none left for {split}",
                where=_KEYS,
                hint="add images, or set the fraction of an unneeded split to 0",
            )
        notes.append(places.move_nearest(spare, split, interval, lacking="been empty"))
    return notes


def _fill_strata(
    places: _Places,
    names: Sequence[str],
    of_sample: NDArray[np.intp],
    wanted: Mapping[str, Interval],
) -> list[str]:
    """Move the nearest group of each stratum missing from a held-out split into it, with a note."""
    of_group = places.groups.of_sample
    members = [np.unique(of_group[of_sample == k]) for k in range(len(names))]
    notes = []
    for split, interval in wanted.items():
        for name, own in zip(names, members, strict=True):
            spare = None if split == "train" else places.spare(own, split)
            if spare is not None and len(spare):
                lacking = f"held no image of {name}"
                notes.append(places.move_nearest(spare, split, interval, lacking=lacking))
    return notes


def _note_uneven(places: _Places, wanted: Mapping[str, Interval]) -> list[str]:
    """Note a drawn split with less than half of its groups: small sets are divided unevenly."""
    notes, size = [], len(places.groups)
    for split, (low, high) in wanted.items():
        held, expected = int((places.split == _CODE[split]).sum()), round((high - low) * size)
        if expected >= _ENOUGH_GROUPS and held < expected / 2:
            what = "images" if size == len(places.samples) else "groups"
            notes.append(
                f"the draw gave {split} {held} of {size} {what}, about {expected} were expected;"
                " another data.split_seed draws again"
            )
    return notes


def _leak_note(splits: NDArray[np.intp], is_torn: NDArray[np.bool_], num_torn: int) -> str:
    parts = []
    for split in ("test", "val"):
        leaks = is_torn[splits == _CODE[split]]
        if leaks.any():
            parts.append(f"{leaks.sum()} of {len(leaks)} {split} images")
    return (
        f"LEAK: {counted(num_torn, 'group')} ({', '.join(parts)}) in more than one of the given"
        " splits; nothing was moved"
    )


def _compare_shares(
    splits: NDArray[np.intp], names: Sequence[str], of_sample: NDArray[np.intp]
) -> list[str]:
    """Note strata missing from a split, or with less than half or more than twice their share."""
    notes = []
    overall = dict(zip(names, np.bincount(of_sample).tolist(), strict=True))
    for split in STAGES if names else ():
        found = np.bincount(of_sample[splits == _CODE[split]], minlength=len(names)).tolist()
        counts = {name: count for name, count in zip(names, found, strict=True) if count}
        size = sum(found)
        masks = " masks" * (set(names) <= set(_STRATA))
        lacking = [f"{name}{masks}" for name in names if size and name not in counts]
        if lacking:
            thirds = " (thirds of the whole set)" * (bool(masks) and lacking != ["empty masks"])
            notes.append(
                f"{split} ({counted(size, 'image')}) contains no {', no '.join(lacking)}{thirds}"
            )
        for name, count in counts.items() if split != "train" else ():
            expected = overall[name] * size / len(splits)
            off = not 0.5 <= count / expected <= 2
            if off and expected >= _ENOUGH:
                notes.append(
                    f"{split} has {count} {name}{masks} of {size} images,"
                    f" expected {expected:.0f} from the whole set"
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
    """Assign to every sample its split, and the group that must stay together.

    All protocols but ``official`` discard the given splits, unless ``keep``. Images that share a
    group or are near-duplicates form one group, named after its alphabetically first image or
    patient; ``merged`` uses no groups. A new image therefore moves existing ones only if it is
    their near-duplicate and precedes them alphabetically, or if it joins two groups; in a kept
    split it moves none, and ``LEAK`` is noted.

    Args:
        samples: Samples in any order, with given or empty splits.
        protocol: One of ``PROTOCOLS``.
        fold: Index of the test fold, in [0, folds); only used by ``kfold``.
        folds: Number of folds, at least 2; only used by ``kfold``.
        seed: Seed of the draw.
        val_fraction: Share of val if drawn; for ``kfold``, of the samples outside test.
        test_fraction: Share of test if drawn; not used by ``kfold``.
        near_duplicates: Group number of each sample from `find_near_duplicates`; None if unknown.
        stratify_by: Class or foreground stratum of each sample, as for `draw_split`.
        every_stratum: As for `draw_split`.
        keep: If True, keep the given splits of an earlier run and draw only for the others.

    Raises:
        MedvisionError: If the protocol or the fold does not exist, a split is to be kept that the
            protocol would draw again, or there are too few groups for a split.
    """
    if protocol not in PROTOCOLS:
        nearest = did_you_mean(protocol, PROTOCOLS, otherwise=f"use {', '.join(PROTOCOLS)}")
        raise MedvisionError(f"unknown protocol {protocol}", where="data.protocol", hint=nearest)
    if keep and protocol in ("merged", "kfold"):
        raise MedvisionError(
            f"the protocol {protocol} draws its own split, but a split is given",
            where="data.splits",
            hint="remove data.splits or data.protocol",
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
        notes.append("near-duplicates were not searched: only known groups stay together")
    if protocol == "kfold":
        placed = _test_fold(placed, fold=fold, folds=folds, seed=seed)
        seed, test_fraction = ~seed, 0.0  # the first hash selects the fold
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
    """Join the groups connected by near-duplicates; a single image keeps its empty group.

    Args:
        samples: Samples with their known groups.
        near_duplicates: As for `apply_protocol`.
    """
    table = SampleTable.of(samples)
    if near_duplicates is None or not len(table):
        return table
    keys, of_sample = StringColumn.of(table.group_keys()).numbered()
    _, first, which = np.unique(np.asarray(near_duplicates), return_index=True, return_inverse=True)
    of_key = join(np.arange(len(keys)), of_sample, of_sample[first][which])
    # Groups are numbered in the order of their first keys; this key is the name.
    names = np.unique(of_key, return_index=True)[1]
    sizes = np.bincount(of_key)
    joined = (
        keys[names[group]] if sizes[group] > 1 else own
        for own, group in zip(table.groups, of_key[of_sample].tolist(), strict=True)
    )
    return table.with_column(groups=joined)


def _test_fold(samples: SampleTable, *, fold: int, folds: int, seed: int) -> SampleTable:
    """Assign the groups with u in [fold / folds, (fold + 1) / folds) to test."""
    if folds < 2:
        raise MedvisionError(
            f"expected at least 2 folds, got {folds}", where="data.folds", hint="the default is 5"
        )
    if not 0 <= fold < folds:
        raise MedvisionError(
            f"expected a fold from 0 to {folds - 1}, got {fold}",
            where="data.fold",
            hint=f"data.folds is {folds}",
        )
    groups = draw_groups(samples, seed=seed)
    tested = np.minimum((groups.u * folds).astype(np.int64), folds - 1) == fold
    if not tested.any() or tested.all():
        raise MedvisionError(
            f"fold {fold} of {folds} contains {tested.sum()} of {len(groups)} groups",
            where="data.folds",
            hint=f"use fewer folds, another draw with data.split_seed={seed + 1}, or more images",
        )
    return samples.with_column(
        splits=StringColumn.coded(["", "test"], tested[groups.of_sample].astype(np.uint8))
    )


def _merged_note(
    samples: SampleTable, near_duplicates: Sequence[int] | NDArray[np.int64] | None
) -> str:
    found = "near-duplicates were not searched"
    if near_duplicates is not None:
        splits = list(samples.splits)
        crossing = count_crossing(near_duplicates, splits)[1]
        found = f"{crossing} of {splits.count('test')} test images have a near-duplicate in train"
    return (
        "THE MERGED PROTOCOL LEAKS: images of one patient and near-duplicates can be in different"
        f" splits; {found};"
        " data.protocol=grouped keeps them together"
    )
