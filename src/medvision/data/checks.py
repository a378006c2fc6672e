"""Read every image and mask once before training, so that no fault waits for the tenth epoch."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from medvision.data.decode import image_size, read_bytes
from medvision.data.image_io import decode_image, decode_mask
from medvision.data.sample import Sample, count_names
from medvision.types import MedvisionError

_MAX_WORKERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What the check found.

    Attributes:
        samples: Those that can be used, in the order given.
        foreground: For each of them, the share of its mask's pixels that are not background,
            in [0, 1]; None where only headers were read.
        skipped: Path and reason of each sample left out.
        empty_masks: How many of the masks read have no foreground.
        fingerprint: SHA-256 over the sorted paths and contents of the usable samples; over
            paths and file sizes where only headers were read.
        notes: What a reader should know.
    """

    samples: list[Sample]
    foreground: list[float | None]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    empty_masks: int = 0
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finding:
    """One sample: its line of the fingerprint and foreground share, or its fault."""

    line: str = ""
    foreground: float | None = None
    fault: MedvisionError | None = None


def check_segmentation(
    root: Path,
    samples: Sequence[Sample],
    *,
    channels: int,
    num_classes: int,
    color_map: Sequence[tuple[int, int, int]] | None = None,
    value_range: tuple[float, float] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    max_decoded: int = 20_000,
) -> CheckResult:
    """Decode every image and mask, and compare their sizes.

    Args:
        root: The folder that paths are relative to.
        samples: What to check.
        channels: As for `read_image`.
        num_classes: As for `read_mask`.
        color_map: As for `read_mask`.
        value_range: As for `read_image`.
        on_error: ``fail`` raises one error for all faults; ``skip`` leaves the samples out
            and says so in the notes.
        max_decoded: For more samples only headers are read, and a note says so.

    Raises:
        MedvisionError: If a sample cannot be used and ``on_error`` is ``fail``, or if none can.
    """
    if on_error not in ("fail", "skip"):
        raise MedvisionError(
            f"expected fail or skip, got {on_error}", where="data.on_error", hint="use one of them"
        )
    decode_all = len(samples) <= max_decoded
    look: Callable[[Sample], _Finding] = partial(_header, root)
    if decode_all:
        look = partial(
            _content,
            root,
            channels=channels,
            num_classes=num_classes,
            color_map=color_map,
            value_range=value_range,
        )
    findings = _in_threads(look, samples)
    faults = [(s, f.fault) for s, f in zip(samples, findings, strict=True) if f.fault]
    told = next((f for _, f in faults if (f.where or "").startswith("data.")), None)
    if told:  # about a config key, not about the files
        raise told
    if faults and (on_error == "fail" or len(faults) == len(samples)):
        raise _one_error(root, faults, len(samples))
    usable = [(s, f) for s, f in zip(samples, findings, strict=True) if not f.fault]
    empty = sum(finding.foreground == 0 for _, finding in usable)
    return CheckResult(
        samples=[sample for sample, _ in usable],
        foreground=[finding.foreground for _, finding in usable],
        skipped=[(sample.path, _reason(root, fault)) for sample, fault in faults],
        empty_masks=empty,
        fingerprint=_fingerprint([finding.line for _, finding in usable]),
        notes=_notes(root, len(samples), faults, empty, decode_all),
    )


def _content(
    root: Path,
    sample: Sample,
    *,
    channels: int,
    num_classes: int,
    color_map: Sequence[tuple[int, int, int]] | None,
    value_range: tuple[float, float] | None,
) -> _Finding:
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        image_bytes, mask_bytes = read_bytes(image_path), read_bytes(mask_path)
        image = decode_image(
            image_bytes, where=str(image_path), channels=channels, value_range=value_range
        )
        mask = decode_mask(
            mask_bytes, where=str(mask_path), num_classes=num_classes, color_map=color_map
        )
        _compare(sample, image.shape[:2], mask.shape, mask_path)
    except MedvisionError as fault:
        return _Finding(fault=fault)
    content = (hashlib.sha256(data).hexdigest() for data in (image_bytes, mask_bytes))
    return _Finding(
        line="\0".join((sample.path, sample.target, *content)),
        foreground=np.count_nonzero(mask) / mask.size,
    )


def _header(root: Path, sample: Sample) -> _Finding:
    image_path, mask_path = root / sample.path, root / sample.target
    try:
        _compare(sample, image_size(image_path), image_size(mask_path), mask_path)
    except MedvisionError as fault:
        return _Finding(fault=fault)
    sizes = (str(path.stat().st_size) for path in (image_path, mask_path))
    return _Finding(line="\0".join((sample.path, sample.target, *sizes)))


def _compare(
    sample: Sample, image: tuple[int, ...], mask: tuple[int, ...], mask_path: Path
) -> None:
    if image != mask:
        raise MedvisionError(
            f"the mask is {mask[1]} x {mask[0]} pixels (width x height),"
            f" its image {sample.path} is {image[1]} x {image[0]}",
            where=str(mask_path),
            hint="give both the same size",
        )


def _in_threads(look: Callable[[Sample], _Finding], samples: Sequence[Sample]) -> list[_Finding]:
    """Decoding releases the lock of the interpreter, so threads share the work."""
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(look, samples))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest


def _one_error(
    root: Path, faults: list[tuple[Sample, MedvisionError]], total: int
) -> MedvisionError:
    if len(faults) == 1:
        return faults[0][1]
    reasons = [_reason(root, fault) for _, fault in faults]
    hints = Counter(fault.hint for _, fault in faults)
    hint = "mend or remove them, or set data.on_error=skip"
    if len(hints) == 1 and len(faults) == total:  # not the files: what was said about them
        hint = next(iter(hints)) or hint
    return MedvisionError(
        f"{len(faults)} of {total} images cannot be used: {count_names(reasons)}",
        where=str(root),
        hint=hint,
    )


def _reason(root: Path, fault: MedvisionError) -> str:
    name = (fault.where or "").removeprefix(f"{root}{os.sep}")
    return f"{name}: {fault.what}"


def _fingerprint(lines: list[str]) -> str:
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _notes(
    root: Path,
    total: int,
    faults: list[tuple[Sample, MedvisionError]],
    empty: int,
    decoded: bool,
) -> list[str]:
    notes = []
    if faults:
        by_split = Counter(sample.split or "not yet split" for sample, _ in faults)
        splits = ", ".join(f"{split} {count}" for split, count in sorted(by_split.items()))
        notes.append(
            f"SKIPPED {len(faults)} of {total} images ({splits}), as data.on_error=skip asks:"
            f" {count_names([_reason(root, fault) for _, fault in faults])}"
        )
        held_out = by_split["val"] + by_split["test"]
        if held_out:
            notes.append(
                f"{held_out} of the skipped images belong to the given val or test split:"
                " scores are not comparable with those on the whole split"
            )
    if not decoded:
        notes.append(
            f"{total} images are many: only their headers were read before the start,"
            " and the fingerprint holds file sizes, not contents"
        )
    elif empty and empty == total - len(faults):
        notes.append(f"all {empty} masks are empty: there is no foreground to learn or to find")
    return notes
