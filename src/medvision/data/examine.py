"""Look at every sample in threads, and put what is wrong with some of them into few words."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, overload

import numpy as np

from medvision.data.facts import FileFacts
from medvision.data.sample import Sample, count_names
from medvision.data.sample_table import SampleTable
from medvision.types import MedvisionError

_MAX_WORKERS = 8
_IN_PARTS, _PART = 10_000, 32  # of so many samples a thread takes a few at a time: 2 kB each else

OnError = Literal["fail", "skip"]


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
    on_error: OnError,
    *,
    advance: Callable[[int, int], None] | None = None,
    out_of: int | None = None,
) -> tuple[list[tuple[Sample, Finding]], list[tuple[Sample, MedvisionError]]]:
    """Return the usable samples with what was found, and the others with their faults.

    Args:
        root: The folder that paths are relative to.
        samples: What to look at.
        look: Looks at one.
        on_error: Whether a fault is an error, or the sample left out.
        advance: Told of the progress.
        out_of: Size of the set that the samples were drawn from; None: they are all of it.

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
        raise _one_error(root, faults, len(samples), out_of)
    return [(s, f) for s, f in zip(samples, findings, strict=True) if not f.fault], faults


def _in_threads(
    look: Callable[[Sample], Finding],
    samples: Sequence[Sample],
    advance: Callable[[int, int], None] | None,
) -> list[Finding]:
    """Decoding releases the lock of the interpreter, so threads share the work."""
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    findings: list[Finding] = []
    at_once = 1 if len(samples) < _IN_PARTS else _PART
    parts = [samples[start : start + at_once] for start in range(0, len(samples), at_once)]
    try:
        for found in pool.map(lambda part: [look(sample) for sample in part], parts):
            for finding in found:
                findings.append(finding)
                if advance is not None:
                    advance(len(findings), len(samples))
        return findings
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest


def _one_error(
    root: Path, faults: list[tuple[Sample, MedvisionError]], total: int, out_of: int | None
) -> MedvisionError:
    if len(faults) == 1:
        return faults[0][1]
    reasons = [reason(root, fault) for _, fault in faults]
    hints = Counter(fault.hint for _, fault in faults)
    hint = "mend or remove them, or set data.on_error=skip"
    if len(hints) == 1 and len(faults) == total:  # not the files: what was said about them
        hint = next(iter(hints)) or hint
    looked_at = f"{total}" if out_of is None else f"the {total} (of {out_of})"
    seen = "" if out_of is None else " that were looked at"
    return MedvisionError(
        f"{len(faults)} of {looked_at} images{seen} cannot be used: {count_names(reasons)}",
        where=str(root),
        hint=hint,
    )


def reason(root: Path, fault: MedvisionError) -> str:
    """Return the file below the root and what is wrong with it."""
    name = (fault.where or "").removeprefix(f"{root}{os.sep}")
    return f"{name}: {fault.what}"


def fingerprint(lines: Sequence[str]) -> str:
    """Return the SHA-256 of the sorted lines."""
    digest = hashlib.sha256()
    in_order = all(one <= other for one, other in pairwise(lines))
    for line in lines if in_order else sorted(lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


class NameLines(Sequence[str]):
    """The lines of a fingerprint that knows most files by name only, made when they are read.

    Args:
        samples: The usable ones.
        known: Lines of those whose headers were read, by path.
    """

    def __init__(self, samples: SampleTable, known: Mapping[str, str]) -> None:
        self._samples, self._known = samples, known

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> NameLines: ...
    def __getitem__(self, row: int | slice) -> str | NameLines:
        if isinstance(row, slice):
            return NameLines(self._samples[row], self._known)
        sample = self._samples[row]
        return self._known.get(sample.path) or f"{sample.path}\0{sample.target}"

    def __iter__(self) -> Iterator[str]:
        known = self._known
        for path, target in zip(self._samples.paths, self._samples.targets, strict=True):
            yield known.get(path) or f"{path}\0{target}"


def drawn_rows(total: int, number: int) -> list[int]:
    """Rows to look at of very many: the same ones for the same total, ascending."""
    drawn = np.random.default_rng(0).choice(total, min(number, total), replace=False)
    return sorted(drawn.tolist())


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


def sample_note(total: int, number: int) -> str:
    """Say that hardly any file was opened."""
    return (
        f"{total} images are very many: the headers of {number} of them, drawn by chance, were read"
        " before the start; a broken file shows when it is read, which ends the run with its name"
        " (data.on_error=skip cannot leave it out); the fingerprint holds names, and sizes of the"
        f" {number} files only; near-duplicates were not looked for; `medvision audit` reads them"
        " all"
    )
