"""Class counts, and class shares compared between splits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medvision.audit.dataset import ListedSet
from medvision.audit.finding import Finding
from medvision.data.samples import count_names
from medvision.types import STAGES

MIN_SHIFT = 0.05
"""Smallest difference between shares that is reported, even if smaller ones are significant."""

MAX_P = 0.001
"""Upper bound of the p value of a reported shift."""

MAX_IMBALANCE = 5
"""Ratio of the largest to the smallest class from which an imbalance is reported."""

MIN_TEST_IMAGES = 30
"""With fewer the 95 % interval of a recall of 0.8 is wider than 0.62 to 0.91."""

_NO_SPLIT = "all"
_MISSING = {
    "train": "a network cannot learn a class without images",
    "val": "it does not count in the choice of the best epoch and thresholds",
    "test": "its scores are undefined",
}


def class_counts(data: ListedSet) -> dict[str, dict[str, int]]:
    """Count the images of each class in each non-empty split, classes in index order.

    Images without a split are counted under ``all``. Empty without classes.
    """
    if not data.has_classes:
        return {}
    splits, labels = data.splits, data.labels
    counted = {}
    for split, name in [*((stage, stage) for stage in STAGES), ("", _NO_SPLIT)]:
        counts = np.bincount(labels[splits == split], minlength=len(data.class_names))
        if counts.any():
            counted[name] = dict(zip(data.class_names, counts.tolist(), strict=True))
    return counted


def class_findings(data: ListedSet) -> list[Finding]:
    """Report classes that are absent, rare, or more frequent in one split than in another."""
    counts = {split: np.array(list(c.values())) for split, c in class_counts(data).items()}
    if not counts:
        return []
    return [
        *_missing(data, counts),
        *_shifts(data, counts),
        *_imbalance(data, counts),
        *_few(data, counts),
    ]


def _missing(data: ListedSet, counts: dict[str, NDArray[np.int64]]) -> Iterator[Finding]:
    for split in STAGES:
        if split not in counts:
            continue
        absent = [n for n, c in zip(data.class_names, counts[split], strict=True) if not c]
        if not absent:
            continue
        elsewhere = int(sum(c[counts[split] == 0].sum() for c in counts.values()))
        what = "a class" if len(absent) == 1 else f"{len(absent)} classes"
        others, how = (
            "other splits contain",
            (
                "draw a new split with data.split_seed=1, where this one is given also"
                " data.protocol=grouped"
            ),
        )
        if data.compares_two:
            others, how = "the other set contains", "check if the folders are named alike"
        yield Finding(
            kind="class_missing",
            severity="fault" if split == "train" else "warning",
            text=f"{_place(data, split)} has no image of {what} that {others}:"
            f" {count_names(absent)}",
            count=elsewhere,
            advice=f"{_MISSING[split]}: add images, or {how}",
        )


def _shifts(data: ListedSet, counts: dict[str, NDArray[np.int64]]) -> Iterator[Finding]:
    for split in ("val", "test"):
        if "train" not in counts or split not in counts:
            continue
        table = np.stack([counts["train"], counts[split]])
        shares = table / table.sum(axis=1, keepdims=True)
        change = shares[1] - shares[0]
        p_value, effect = _chi_square(table)
        if np.abs(change).max() < MIN_SHIFT or p_value >= MAX_P:
            continue
        order = np.argsort(-np.abs(change), kind="stable")[:3]
        if len(change) == 2:
            order = np.array([1])  # the other share is its complement
        differences = ", ".join(
            f"{data.class_names[k]} is {100 * shares[0, k]:.1f} % of {_place(data, 'train')} and"
            f" {100 * shares[1, k]:.1f} % of {_place(data, split)}"
            for k in order
        )
        yield Finding(
            kind="prior_shift",
            severity="warning",
            text=f"class shares differ between {_place(data, split)} and"
            f" {_place(data, 'train')}: {differences}"
            f" (chi-square p < {MAX_P}, Cramér's V {effect:.2f})",
            count=int(table[1].sum()),
            advice="accuracy and the threshold depend on these shares: also report balanced"
            " accuracy and AUROC, and do not reuse a threshold without testing it",
        )


def _chi_square(table: NDArray[np.int64]) -> tuple[float, float]:
    """Return the p value of Pearson's test (without correction) and Cramér's V of 2 x K counts."""
    kept = table[:, table.sum(axis=0) > 0].astype(np.float64)
    if kept.shape[1] < 2:
        return 1.0, 0.0
    expected = np.outer(kept.sum(axis=1), kept.sum(axis=0)) / kept.sum()
    statistic = float(((kept - expected) ** 2 / expected).sum())
    p_value = special.chdtrc(kept.shape[1] - 1, statistic)  # scipy.stats takes seconds to import
    return float(p_value), float(np.sqrt(statistic / kept.sum()))


def _imbalance(data: ListedSet, counts: dict[str, NDArray[np.int64]]) -> Iterator[Finding]:
    split = next((name for name in ("train", _NO_SPLIT) if name in counts), None)
    if split is None:
        return
    held = np.where(counts[split] > 0, counts[split], counts[split].max())
    rare, frequent = int(held.argmin()), int(counts[split].argmax())
    ratio = held[frequent] / held[rare]
    if ratio < MAX_IMBALANCE:
        return
    where = _place(data, split) if split == "train" else "the set"
    yield Finding(
        kind="imbalance",
        severity="note",
        text=f"{where} contains {held[frequent]} images of {data.class_names[frequent]},"
        f" {ratio:.0f} times as many as of {data.class_names[rare]} ({held[rare]})",
        count=int(held[rare]),
        advice="always predicting the largest class gives an accuracy of"
        f" {held[frequent] / counts[split].sum():.2f}: read balanced accuracy, and"
        " try data.sampler=balanced",
    )


def _few(data: ListedSet, counts: dict[str, NDArray[np.int64]]) -> Iterator[Finding]:
    if "test" not in counts:
        return
    few = [
        (int(count), name)
        for name, count in zip(data.class_names, counts["test"], strict=True)
        if 0 < count < MIN_TEST_IMAGES
    ]
    if not few:
        return
    small = [f"{count} of {name}" for count, name in sorted(few)]
    least = min(few)[0]
    yield Finding(
        kind="few_test_images",
        severity="warning" if least < 10 else "note",
        text=f"{_place(data, 'test')} has few images of some classes: {count_names(small)}",
        count=sum(count for count, _ in few),
        advice=f"one image changes the recall of the rarest class by {1 / least:.2g}: read its"
        " interval" + ("" if data.compares_two else ", or test in folds (data.protocol=kfold)"),
    )


def _place(data: ListedSet, split: str) -> str:
    """Return the split, or the name of the set that is compared as this split."""
    return data.set_name(int(split == "test")) if data.compares_two else split
