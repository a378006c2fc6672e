"""Images that cannot be read, show nothing, or are of another kind than the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import (
    MIN_VALUES,
    Finding,
    Severity,
    far_rows,
    finding_about,
    robust_distance,
    some_of,
)
from medvision.audit.masks import is_mask_fault
from medvision.data.samples import count_names

MIN_RANGE = 8
"""Grey levels between the darkest and the brightest pixel: with fewer an image shows nothing."""

MIN_SPLIT_SHIFT = 0.1
"""Difference between train and test in the share of a kind of file that is told as a warning."""


def image_findings(data: AuditedSet) -> list[Finding]:
    """Tell of images that cannot be used, are constant, odd in size or brightness, or mixed."""
    return [
        *_unusable(data),
        *_constant(data),
        *_sizes(data),
        *_intensities(data),
        *_depths(data),
        *_mixed(
            data,
            np.where(data.properties.colour, "colour", "grey"),
            kind="colour_mixed_with_grey",
            what="colour and grey images are mixed",
            advice="look whether colour tells the class or the source apart; data.in_channels=1"
            " reads all as grey",
        ),
        *_mixed(
            data,
            data.properties.file_format,
            kind="mixed_formats",
            what="file formats are mixed",
            advice="look whether the format tells the class or the source apart",
        ),
    ]


def _unusable(data: AuditedSet) -> Iterator[Finding]:
    found = [(path, reason) for path, reason in data.faults if not is_mask_fault(reason)]
    if not found:
        return
    yield Finding(
        kind="unreadable",
        severity="fault",
        text=f"{len(found)} of {len(data) + len(data.faults)} images cannot be used:"
        f" {count_names([f'{path} ({why})' for path, why in found], shown=2)}",
        count=len(found),
        files=tuple(path for path, _ in found),
        advice="mend or remove them; data.on_error=skip leaves them out of a run",
    )


def _constant(data: AuditedSet) -> Iterator[Finding]:
    spread = data.properties.high.astype(int) - data.properties.low
    for kind, what, flat in (
        ("constant_images", "one and the same value all over", spread == 0),
        (
            "faint_images",
            f"nearly constant: fewer than {MIN_RANGE} of 256 grey levels",
            (spread > 0) & (spread < MIN_RANGE),
        ),
    ):
        rows = np.flatnonzero(flat)
        if len(rows):
            text = f"{some_of(len(rows), len(data), 'images')} {what}"
            advice = "they show nothing: look whether the files were damaged, and remove them"
            yield finding_about(
                data,
                rows,
                kind=kind,
                severity="warning",
                text=text,
                advice=advice,
            )


def _sizes(data: AuditedSet) -> Iterator[Finding]:
    """Images with twice or half the usual height or width, as far as that is rare."""
    height, width = data.properties.height, data.properties.width
    distance = np.maximum(
        robust_distance(np.log2(height), floor=0.2), robust_distance(np.log2(width), floor=0.2)
    )
    rows = far_rows(distance, limit=5)
    if not len(rows):
        return
    told = [f"{width[row]} x {height[row]}" for row in rows]
    usual = f"{np.median(width):.0f} x {np.median(height):.0f}"
    yield finding_about(
        data,
        rows,
        kind="size_outliers",
        severity="note",
        text=f"{some_of(len(rows), len(data), 'images')} far larger or smaller than the others:"
        f" {count_names(list(dict.fromkeys(told)), shown=3)} pixels (width x height), the"
        f" median being {usual}",
        advice="look for icons, cut-outs and montages among them",
    )


def _intensities(data: AuditedSet) -> Iterator[Finding]:
    mean, std = data.properties.mean, data.properties.std
    distance = np.maximum(robust_distance(mean, floor=6), robust_distance(std, floor=6))
    distance[data.properties.high.astype(int) - data.properties.low < MIN_RANGE] = 0  # told already
    rows = far_rows(distance, limit=5, most=0.01)
    if not len(rows):
        return
    first = rows[0]
    yield finding_about(
        data,
        rows,
        kind="intensity_outliers",
        severity="note",
        text=f"{some_of(len(rows), len(data), 'images')} far from the others in brightness or"
        f" contrast: {'' if len(rows) == 1 else 'the farthest has '}mean {mean[first]:.0f} and"
        f" standard deviation {std[first]:.0f} of 255, the medians being {np.median(mean):.0f}"
        f" and {np.median(std):.0f}",
        advice="look for inverted, overexposed and foreign images among them",
    )


def _depths(data: AuditedSet) -> Iterator[Finding]:
    deep = data.properties.bits > 8
    if deep.all() or not deep.any():
        return
    rows = np.flatnonzero(deep if 2 * deep.sum() <= len(data) else ~deep)
    yield finding_about(
        data,
        rows,
        kind="mixed_bit_depths",
        severity="warning",
        text=f"{some_of(int(deep.sum()), len(data), 'images', 'have')} more than 8 bits, which"
        " are stretched to 8; the others are taken as they are",
        advice="set data.value_range, or store all alike: brightness may tell the depths apart",
    )


def _mixed(
    data: AuditedSet, kinds: NDArray[np.str_], *, kind: str, what: str, advice: str
) -> Iterator[Finding]:
    """Say how many files are of which kind, and whether train and test hold them alike."""
    names, which, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return
    order = np.argsort(-counts, kind="stable")
    text = f"{what}: {', '.join(f'{counts[k]} {names[k]}' for k in order)}"
    rows = np.flatnonzero(which != order[0])
    rows = rows[np.argsort(counts[which[rows]], kind="stable")]
    train, test = (which[data.splits == split] for split in ("train", "test"))
    severity: Severity = "note"
    if min(len(train), len(test)) >= MIN_VALUES:
        size = len(names)
        shares = [np.bincount(part, minlength=size) / len(part) for part in (train, test)]
        most = int(np.argmax(np.abs(shares[1] - shares[0])))
        if abs(shares[1][most] - shares[0][most]) >= MIN_SPLIT_SHIFT:
            severity = "warning"
            text += (
                f"; {100 * shares[0][most]:.0f} % of train and {100 * shares[1][most]:.0f} % of"
                f" test are {names[most]}"
            )
    yield finding_about(
        data,
        rows,
        kind=kind,
        severity=severity,
        text=text,
        advice=advice,
    )
