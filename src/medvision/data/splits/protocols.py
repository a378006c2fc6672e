"""The four ways to split a data set, and what each is worth.

``official`` keeps the given split: scores compare with those that others report on it. ``merged``
pools and draws single images, as most published scores do, and leaks wherever images repeat.
``grouped`` pools and draws whole groups: patients, and images that look the same. ``kfold`` does so
``folds`` times, so that every image is tested once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvision.data.duplicates.search import count_crossing, join
from medvision.data.samples import Sample, SampleTable, StringColumn
from medvision.data.splits.assign import SplitResult, draw_groups, draw_split
from medvision.errors import MedvisionError, did_you_mean

PROTOCOLS = ("official", "merged", "grouped", "kfold")

Groups = Sequence[int] | NDArray[np.int64]


def apply_protocol(
    samples: Sequence[Sample],
    *,
    protocol: str,
    fold: int,
    folds: int,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    near_duplicates: Groups | None,
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


def join_groups(samples: Sequence[Sample], near_duplicates: Groups | None) -> SampleTable:
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


def _merged_note(samples: SampleTable, near_duplicates: Groups | None) -> str:
    found = "near-duplicates were not looked for"
    if near_duplicates is not None:
        splits = list(samples.splits)
        crossing = count_crossing(near_duplicates, splits).test_images
        found = f"{crossing} of {splits.count('test')} test images have a near-duplicate in train"
    return (
        f"THE MERGED PROTOCOL LEAKS: it splits patients and near-duplicates apart; {found};"
        " data.protocol=grouped keeps them together"
    )
