"""Findings about unusable, constant or atypical images and masks."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import (
    MIN_VALUES,
    Finding,
    Severity,
    far_rows,
    findings_of,
    robust_distance,
    some_of,
)
from medvision.console import counted
from medvision.data.samples import count_names
from medvision.data.validation.properties import MaskProperties
from medvision.metrics.agreement import annotator_agreement
from medvision.types import STAGES

MIN_RANGE = 8
"""Smallest grey-level range of an image that counts as having content."""

UNUSABLE_KINDS = ("unreadable", "mask_size", "mask_values")
"""Kinds of the findings about files that cannot be used."""

MIN_SPLIT_SHIFT = 0.1
"""Train-test difference in the share of a file kind that is reported as a warning."""


def image_findings(data: AuditedSet) -> list[Finding]:
    """Report images that are unusable, constant, mixed, or atypical in size or brightness."""
    origin = "the class or the source" if data.has_classes else "the source"
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
            advice=f"check whether colour depends on {origin}; data.in_channels=1"
            " reads all images as grey",
        ),
        *_mixed(
            data,
            data.properties.file_format,
            kind="mixed_formats",
            what="file formats are mixed",
            advice=f"check whether the format depends on {origin}",
        ),
    ]


def _unusable(data: AuditedSet) -> list[Finding]:
    found = [(path, reason) for path, reason in data.faults if not is_mask_fault(reason)]
    return findings_of(
        [path for path, _ in found],
        kind="unreadable",
        severity="fault",
        text=f"{len(found)} of {len(data) + len(data.faults)} images cannot be used:"
        f" {_listed(found)}",
        advice="fix or remove them; data.on_error=skip excludes them from a run",
    )


def _listed(found: list[tuple[str, str]]) -> str:
    return count_names([f"{path} ({reason})" for path, reason in found], shown=2)


def _constant(data: AuditedSet) -> list[Finding]:
    spread, findings = data.properties.high.astype(int) - data.properties.low, []
    for kind, what, flat in (
        ("constant_images", "of a single value", spread == 0),
        (
            "faint_images",
            f"nearly constant: fewer than {MIN_RANGE} of 256 grey levels",
            (spread > 0) & (spread < MIN_RANGE),
        ),
    ):
        rows = np.flatnonzero(flat)
        findings += findings_of(
            data.names(rows),
            kind=kind,
            severity="warning",
            text=f"{some_of(len(rows), len(data), 'images')} {what}",
            advice="they have no content: check the files for damage, and remove them",
        )
    return findings


def _sizes(data: AuditedSet) -> list[Finding]:
    """Report images with twice or half the usual height or width, if these are rare."""
    height, width = data.properties.height, data.properties.width
    distance = np.maximum(
        robust_distance(np.log2(height), floor=0.2), robust_distance(np.log2(width), floor=0.2)
    )
    rows = far_rows(distance, limit=5)
    if not len(rows):
        return []
    sizes = [f"{width[row]} x {height[row]}" for row in rows]
    usual = f"{np.median(width):.0f} x {np.median(height):.0f}"
    return findings_of(
        data.names(rows),
        kind="size_outliers",
        severity="note",
        text=f"{some_of(len(rows), len(data), 'images')} far larger or smaller than the others:"
        f" {count_names(list(dict.fromkeys(sizes)), shown=3)} pixels (width x height),"
        f" median {usual}",
        advice="check for icons, crops and montages",
    )


def _intensities(data: AuditedSet) -> list[Finding]:
    mean, std = data.properties.mean, data.properties.std
    distance = np.maximum(robust_distance(mean, floor=6), robust_distance(std, floor=6))
    distance[data.properties.high.astype(int) - data.properties.low < MIN_RANGE] = 0  # not twice
    rows = far_rows(distance, limit=5, most=0.01)
    if not len(rows):
        return []
    first = rows[0]
    return findings_of(
        data.names(rows),
        kind="intensity_outliers",
        severity="note",
        text=f"{some_of(len(rows), len(data), 'images')} far from the others in brightness or"
        f" contrast: {'' if len(rows) == 1 else 'the farthest has '}mean {mean[first]:.0f} and"
        f" standard deviation {std[first]:.0f} of 255, medians {np.median(mean):.0f}"
        f" and {np.median(std):.0f}",
        advice="check for inverted, overexposed and unrelated images",
    )


def _depths(data: AuditedSet) -> list[Finding]:
    """Report deep images among others, with a given value range only if brightness differs."""
    deep, mean = data.properties.bits > 8, data.properties.mean
    rows = np.flatnonzero(deep if 2 * deep.sum() <= len(data) else ~deep)
    if not len(rows):
        return []
    text = f"{some_of(int(deep.sum()), len(data), 'images', 'have')} more than 8 bits"
    given = data.reading.value_range
    if given is None:
        text += " and are rescaled to 8; the others are unchanged"
        advice = "set data.value_range, or store all with one depth: brightness may reveal it"
    else:
        low, usual, high = np.quantile(mean[deep], [0.25, 0.5, 0.75])
        other_low, other_usual, other_high = np.quantile(mean[~deep], [0.25, 0.5, 0.75])
        if low <= other_high and other_low <= high:
            return []
        text += (
            f" and, with data.value_range=[{given[0]:g},{given[1]:g}], another brightness: median"
            f" {usual:.0f} of 255, of the others {other_usual:.0f}"
        )
        advice = "check both values, or store all with one depth: brightness may reveal the source"
    return findings_of(
        data.names(rows), kind="mixed_bit_depths", severity="warning", text=text, advice=advice
    )


def _mixed(
    data: AuditedSet, kinds: NDArray[np.str_], *, kind: str, what: str, advice: str
) -> list[Finding]:
    """Report the number of files of each kind, and different shares in train and test."""
    names, which, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return []
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
    return findings_of(data.names(rows), kind=kind, severity=severity, text=text, advice=advice)


MAX_GREY = 0.02
"""Largest share of grey pixels attributed to edges; at most 0.0043 in 1000 Kvasir-SEG masks."""

_SIZES = re.compile(r"the mask is (\d+) x (\d+) pixels.* is (\d+) x (\d+)")
_VALUES = re.compile(r"\b(?:the|a) mask (?:of|contains|is coloured)|class indices|for masks of")


_MOST_COMPARED = 100
"""Images of which the masks of annotators are compared."""


def annotator_findings(data: AuditedSet) -> list[Finding]:
    """Report how well the annotators of a set agree, as a baseline for the scores of a model."""
    drawn = {path: masks for index in data.indices for path, masks in index.annotators.items()}
    rows = [row for row, path in enumerate(data.samples.paths) if path in drawn]
    if not rows or not data.has_masks or data.compares_two:
        return []
    scores = []
    for row in rows[:_MOST_COMPARED]:
        masks = [data.mask(row, name) for name in drawn[data.samples.paths[row]].values()]
        scores.append(annotator_agreement(masks, num_classes=data.num_classes))
    names = sorted({name for masks in drawn.values() for name in masks})
    dice, iou = np.mean(scores, axis=0)
    return [
        Finding(
            kind="annotator_agreement",
            severity="note",
            text=f"the annotators {', '.join(names)} agree: mean Dice {dice:.3f}, IoU {iou:.3f}"
            f" over {counted(len(scores), 'image')}, a human baseline for a model",
            count=len(scores),
        )
    ]


def mask_findings(data: AuditedSet) -> list[Finding]:
    """Report atypical and unusable masks; empty for classification."""
    if data.properties.mask is None:
        return []
    mask = data.properties.mask
    return [
        *_mask_sizes(data),
        *_mask_values(data),
        *_empty(data, mask),
        *_full(data, mask),
        *_grey(data, mask),
        *_inverted(data, mask),
        *_shared(data, mask),
        *_far(data, mask),
    ]


def is_mask_fault(reason: str) -> bool:
    """Return True if a file is unusable because of the size or the values of its mask."""
    return bool(_SIZES.search(reason) or _VALUES.search(reason))


def _mask_sizes(data: AuditedSet) -> list[Finding]:
    found = [(path, reason) for path, reason in data.faults if _SIZES.search(reason)]
    if not found:
        return []
    sizes = [[int(number) for number in _SIZES.findall(reason)[0]] for _, reason in found]
    by_one = [max(abs(a - c), abs(b - d)) == 1 for a, b, c, d in sizes]
    turned = [(a, b) == (d, c) for a, b, c, d in sizes]
    width, height, image_width, image_height = sizes[0]
    total = len(data) + len(data.faults)
    whose = "its" if len(found) == 1 else "their"
    parts = [f"{some_of(len(found), total, 'masks', 'differ')} in size from {whose} image"]
    if any(by_one):
        parts.append("all off by one pixel" if all(by_one) else f"{sum(by_one)} off by one pixel")
    if any(turned):
        parts.append(f"{sum(turned)} with width and height swapped")
    parts.append(
        f"such as {width} x {height} pixels (width x height) for an image of"
        f" {image_width} x {image_height}"
    )
    advice = "export the masks again at the size of their images"
    if all(by_one):
        advice = "find the step that rounded the size; crop or pad the masks"
    elif any(turned):
        advice = "check for images with an EXIF rotation and masks without"
    return findings_of(
        [path for path, _ in found],
        kind="mask_size",
        severity="fault",
        text=", ".join(parts),
        advice=advice,
    )


def _mask_values(data: AuditedSet) -> list[Finding]:
    found = [(p, r) for p, r in data.faults if _VALUES.search(r) and not _SIZES.search(r)]
    return findings_of(
        [path for path, _ in found],
        kind="mask_values",
        severity="fault",
        text=f"{some_of(len(found), len(data) + len(data.faults), 'masks', 'contain')} values that"
        f" are not valid classes: {_listed(found)}",
        advice="store 0/1 or 0/255, or set data.class_names or data.color_map",
    )


def _empty(data: AuditedSet, mask: MaskProperties) -> list[Finding]:
    rows = np.flatnonzero(mask.foreground == 0)
    text = some_of(len(rows), len(data), "masks") + " empty"
    held = [(stage, data.splits == stage) for stage in STAGES]
    counts = [f"{stage} {int(inside[rows].sum())}" for stage, inside in held if inside.any()]
    text += f" ({', '.join(counts)})" if counts else ""
    advice = (
        "correct if the image shows no lesion, wrong if the mask was lost; an empty prediction"
        " scores Dice 1 on them"
    )
    severity: Severity = "note"
    if len(rows) == len(data):
        text, severity = "all masks are empty", "fault"
        advice = "there is nothing to learn: check which value of the masks means foreground"
    return findings_of(
        data.names(rows), kind="empty_masks", severity=severity, text=text, advice=advice
    )


def _full(data: AuditedSet, mask: MaskProperties) -> list[Finding]:
    rows = np.flatnonzero(mask.foreground == 1)
    every = len(rows) == len(data)
    return findings_of(
        data.names(rows),
        kind="full_masks",
        severity="fault" if every and data.num_classes == 2 else "warning",
        text="all masks are full" if every else some_of(len(rows), len(data), "masks") + " full",
        advice="every pixel is foreground: check for placeholders or a wrong threshold",
    )


def _grey(data: AuditedSet, mask: MaskProperties) -> list[Finding]:
    soft = (mask.grey > MAX_GREY) | ((mask.grey > mask.foreground) & (mask.grey > MAX_GREY / 10))
    rows = np.flatnonzero(soft)
    if not len(rows):
        return []
    rows = rows[np.argsort(-mask.grey[rows], kind="stable")]
    return findings_of(
        data.names(rows),
        kind="soft_masks",
        severity="warning",
        text=f"{some_of(len(rows), len(data), 'masks')} not binary: up to"
        f" {100 * float(mask.grey[rows[0]]):.2g} % of the pixels are grey, more than edges explain",
        advice="they are thresholded at half of their range: check whether these are"
        " probabilities, several classes, or pictures",
    )


def _inverted(data: AuditedSet, mask: MaskProperties) -> list[Finding]:
    odd = (mask.frame > 0.5) & (mask.foreground > 0.5) & (mask.foreground < 1)
    rows = np.flatnonzero(odd)
    text = (
        f"{some_of(len(rows), len(data), 'masks', 'look')} inverted: most of the image and of its"
        f" frame is foreground, and the frame is background in {int((mask.frame < 0.5).sum())}"
        " others"
    )
    if 2 * len(rows) > len(data):
        text = (
            f"in {len(rows)} of {len(data)} masks most of the image and of its frame is"
            " foreground: background and foreground may be swapped"
        )
    return findings_of(
        data.names(rows[np.argsort(-mask.frame[rows], kind="stable")]),
        kind="inverted_masks",
        severity="warning",
        text=text,
        advice="check them; if they are inverted, store 255 minus their value",
    )


def _shared(data: AuditedSet, mask: MaskProperties) -> list[Finding]:
    """Report masks shared by images that do not show the same picture."""
    drawn = np.flatnonzero((mask.foreground > 0) & (mask.foreground < 1))
    _, which = np.unique(mask.mask_hash[drawn], return_inverse=True)
    uses = np.unique(np.stack([which, data.near_duplicates.groups[drawn]]), axis=1)[0]
    pictures = np.bincount(uses)  # per mask, counting near-duplicates once
    shared = np.flatnonzero(pictures[which] > 1)
    copied = int((pictures > 1).sum())
    order = np.lexsort((shared, which[shared], -pictures[which[shared]]))
    return findings_of(
        data.names(drawn[shared[order]]),
        kind="shared_masks",
        severity="warning",
        text=f"{len(shared)} images that do not all look alike share"
        f" {counted(copied, 'mask')}, pixel for pixel",
        advice="no outline is drawn twice: check for copied or swapped masks",
    )


def _far(data: AuditedSet, mask: MaskProperties) -> list[Finding]:
    drawn = np.flatnonzero((mask.foreground > 0) & (mask.foreground < 1))
    share = mask.foreground[drawn].astype(np.float64)
    distance = robust_distance(np.log2(share / (1 - share)), floor=0.5)
    rows = drawn[far_rows(distance, limit=5)]
    if not len(rows):
        return []
    least, most = 100 * float(mask.foreground[rows].min()), 100 * float(mask.foreground[rows].max())
    span = f"{least:.2g} %" if len(rows) == 1 else f"{least:.2g} to {most:.2g} %"
    return findings_of(
        data.names(rows),
        kind="foreground_outliers",
        severity="note",
        text=f"{some_of(len(rows), len(drawn), 'masks', 'have')} far more or less foreground"
        f" than the others: {span} of the image, median"
        f" {100 * float(np.median(share)):.2g} %",
        advice="check for stray pixels and masks of other structures",
    )
