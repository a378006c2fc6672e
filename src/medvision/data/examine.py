"""Look at every sample in threads, and put what is wrong with some of them into few words."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medvision.data.facts import FileFacts
from medvision.data.sample import Sample, count_names
from medvision.types import MedvisionError

_MAX_WORKERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One sample: its line of the fingerprint and what its files tell, or its fault."""

    line: str = ""
    facts: FileFacts | None = None
    fault: MedvisionError | None = None


def examine(
    root: Path,
    samples: Sequence[Sample],
    look: Callable[[Sample], Finding],
    on_error: Literal["fail", "skip"],
    *,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[list[tuple[Sample, Finding]], list[tuple[Sample, MedvisionError]]]:
    """Return the usable samples with what was found, and the others with their faults.

    Raises:
        MedvisionError: For all faults together where ``on_error`` is ``fail`` or no sample is
            usable, or for one that is about a config key.
    """
    if on_error not in ("fail", "skip"):
        raise MedvisionError(
            f"expected fail or skip, got {on_error}", where="data.on_error", hint="use one of them"
        )
    findings = _in_threads(look, samples, advance)
    faults = [(s, f.fault) for s, f in zip(samples, findings, strict=True) if f.fault]
    told = next((f for _, f in faults if (f.where or "").startswith("data.")), None)
    if told:  # about a config key, not about the files
        raise told
    if faults and (on_error == "fail" or len(faults) == len(samples)):
        raise _one_error(root, faults, len(samples))
    return [(s, f) for s, f in zip(samples, findings, strict=True) if not f.fault], faults


def _in_threads(
    look: Callable[[Sample], Finding],
    samples: Sequence[Sample],
    advance: Callable[[int, int], None] | None,
) -> list[Finding]:
    """Decoding releases the lock of the interpreter, so threads share the work."""
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    findings = []
    try:
        for finding in pool.map(look, samples):
            findings.append(finding)
            if advance is not None:
                advance(len(findings), len(samples))
        return findings
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest


def _one_error(
    root: Path, faults: list[tuple[Sample, MedvisionError]], total: int
) -> MedvisionError:
    if len(faults) == 1:
        return faults[0][1]
    reasons = [reason(root, fault) for _, fault in faults]
    hints = Counter(fault.hint for _, fault in faults)
    hint = "mend or remove them, or set data.on_error=skip"
    if len(hints) == 1 and len(faults) == total:  # not the files: what was said about them
        hint = next(iter(hints)) or hint
    return MedvisionError(
        f"{len(faults)} of {total} images cannot be used: {count_names(reasons)}",
        where=str(root),
        hint=hint,
    )


def reason(root: Path, fault: MedvisionError) -> str:
    """Return the file below the root and what is wrong with it."""
    name = (fault.where or "").removeprefix(f"{root}{os.sep}")
    return f"{name}: {fault.what}"


def fingerprint(lines: Iterable[str]) -> str:
    """Return the SHA-256 of the sorted lines."""
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def skip_notes(
    root: Path,
    total: int,
    faults: list[tuple[Sample, MedvisionError]],
    place: Callable[[Sample], str],
) -> list[str]:
    """Say how many samples of which place are left out, and why."""
    if not faults:
        return []
    by_place = Counter(place(sample) for sample, _ in faults)
    places = ", ".join(f"{name} {count}" for name, count in sorted(by_place.items()))
    notes = [
        f"SKIPPED {len(faults)} of {total} images ({places}), as data.on_error=skip asks:"
        f" {count_names([reason(root, fault) for _, fault in faults])}"
    ]
    held_out = sum(sample.split in ("val", "test") for sample, _ in faults)
    if held_out:
        notes.append(
            f"{held_out} of the skipped images belong to the given val or test split:"
            " scores are not comparable with those on the whole split"
        )
    return notes


def header_note(total: int) -> str:
    """Say that no content was read."""
    return (
        f"{total} images are many: only their headers were read before the start;"
        " the fingerprint holds file sizes, not contents, and near-duplicates were not looked for;"
        " `medvision audit` reads them once, and later starts know what it found"
    )
