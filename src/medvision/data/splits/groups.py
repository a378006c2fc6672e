"""Groups of samples from a pattern, a csv or DICOM patients, stored as salted hashes."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from medvision.console import counted
from medvision.data.readers.dicom import dicom_texts
from medvision.data.readers.kinds import DICOM_SUFFIXES, kind_of_file, may_need_content
from medvision.data.samples import Sample, SampleTable, StringColumn
from medvision.errors import MedvisionError
from medvision.files import open_regular, own_folder

MATCHING_S = 10.0
"""Processor time for matching a pattern, beside that for each path; seconds."""

MATCHING_S_PER_PATH = 1e-4
"""A hundred times what common patterns take; seconds."""


def group_by_pattern(samples: SampleTable, pattern: str) -> tuple[SampleTable, list[str]]:
    """Return the samples with the groups captured by a pattern, and notes.

    Samples that do not match keep their group.

    Raises:
        MedvisionError: If the pattern is invalid, does not have exactly one group, takes too long
            or matches no path.
    """
    found = StringColumn.of(captured(pattern, samples.paths))
    unmatched = int(found.equal("").sum())
    if unmatched == len(samples):
        raise MedvisionError(
            f"{pattern} matches no image; the first is {samples.paths[0]}",
            where="data.group_pattern",
            hint="it must match part of the path in data.root",
        )
    notes = []
    if unmatched:
        notes.append(
            f"data.group_pattern does not match {unmatched} of {len(samples)} images:"
            " each is its own group unless a csv gives its group"
        )
    columns = zip(found, samples.groups, strict=True)
    return samples.with_column(groups=(group or own for group, own in columns)), notes


def captured(pattern: str, paths: Iterable[str], *, where: str = "data.group_pattern") -> list[str]:
    """Return the text that a pattern's group captures in each path, empty without a match.

    Patterns also come from stored configs, and some take longer than anyone waits, such as
    ``(a+)+b``: processor time is limited where the system can do it, in the main thread.

    Raises:
        MedvisionError: If the pattern is invalid, does not have exactly one group or takes too
            long.
    """
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as fault:
        raise MedvisionError(
            f"{pattern[:200]} is not a regular expression: {fault}",
            where=where,
            hint="fix it, and quote it for the shell",
        ) from fault
    if expression.groups != 1:
        raise MedvisionError(
            f"expected one capture group, got {expression.groups} in {pattern[:200]}",
            where=where,
            hint=r"put the part of the path in parentheses, as in '(person\d+)_'",
        )
    listed = list(paths)
    with cpu_time_limit(MATCHING_S + MATCHING_S_PER_PATH * len(listed), pattern, where=where):
        matches = map(expression.search, listed)
        return [match.group(1) or "" if match else "" for match in matches]


@contextmanager
def cpu_time_limit(
    seconds: float, pattern: str, *, where: str = "data.group_pattern"
) -> Iterator[None]:
    """Raise an error in the block once it has used that much processor time."""

    def stop(*_: object) -> None:
        raise MedvisionError(
            f"matching {pattern[:200]} takes more than {seconds:.0f} s",
            where=where,
            hint="give a pattern without a repetition inside of another, such as (a+)+",
        )

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (in_main_thread and hasattr(signal, "setitimer")):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def given_groups(samples: SampleTable) -> dict[str, str]:
    """Return the group of each path that has one."""
    if not any(samples.groups.numbered()[0]):
        return {}
    named = ~samples.groups.equal("")
    return dict(zip(samples.paths.select(named), samples.groups.select(named), strict=True))


_NUM_BYTES = 32
_HASH_DIGITS = 12


def hash_groups(samples: Iterable[Sample]) -> tuple[SampleTable, str | None]:
    """Return the samples with their groups as salted hashes, and a warning or None.

    The salt is created once per user and stored outside run folders, so a group has the same hash
    in all runs on a machine. If it cannot be stored, it is valid only for the process, with a
    warning. An empty group stays empty.

    Returns:
        The samples in their order, each group 12 hexadecimal digits or empty; and a warning or
        None.
    """
    table = SampleTable.of(samples)
    names, number = table.groups.numbered()
    if not any(names):
        return table, None
    salt, warning = _salt()
    hashed = [_hashed(name, salt) for name in names]
    return table.with_column(groups=map(hashed.__getitem__, number.tolist())), warning


def hash_names(names: Iterable[str]) -> list[str]:
    """Return the salted hash of each name, as in `hash_groups`."""
    salt, _ = _salt()
    return [_hashed(name, salt) for name in names]


def _hashed(group: str, salt: bytes) -> str:
    return hashlib.sha256(salt + group.encode()).hexdigest()[:_HASH_DIGITS] if group else ""


def _salt() -> tuple[bytes, str | None]:
    try:
        path = own_folder("state") / "group_salt"
        if not path.exists():
            _create(path)
        salt = path.read_bytes()
    except (OSError, RuntimeError) as fault:  # RuntimeError: no home folder
        reason = str(fault)
    else:
        if len(salt) == _NUM_BYTES:
            return salt, None
        reason = f"expected {_NUM_BYTES} bytes in {path}"
    return _process_salt(), (
        f"the salt for group names cannot be stored ({reason}):"
        " groups in this run's files cannot be matched with those of other runs;"
        " set MEDVISION_STATE_DIR to a writable folder"
    )


def _create(path: Path) -> None:
    """Create the salt atomically; of two concurrent processes, the first one wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        partial.touch(mode=0o600, exist_ok=False)
        partial.write_bytes(secrets.token_bytes(_NUM_BYTES))
        with suppress(FileExistsError):
            path.hardlink_to(partial)
    finally:
        partial.unlink(missing_ok=True)


@functools.cache
def _process_salt() -> bytes:
    return secrets.token_bytes(_NUM_BYTES)


_PATIENT = ("PatientID", "IssuerOfPatientID")
_AT_ONCE = 64
_MAX_WORKERS = 8


def group_by_patient(root: Path, samples: SampleTable) -> tuple[SampleTable, list[str]]:
    """Return the samples with the patients of DICOM files as groups, and notes.

    Groups from a csv or a pattern are kept. The returned groups are salted hashes, so that patient
    ids do not leave this function.

    Args:
        root: The data folder.
        samples: Samples of the folder; only files with an extension of DICOM or without one are
            opened.
    """
    rows = [
        row
        for row, (path, group) in enumerate(zip(samples.paths, samples.groups, strict=True))
        if not group and _is_dicom(root, path)
    ]
    if not rows:
        return samples, []
    paths = [root / samples.paths[row] for row in rows]
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        patients = list(pool.map(_patient, paths, chunksize=_AT_ONCE))
    counts = Counter(patients)
    unnamed = counts.pop("", 0)
    if len(counts) == 1 and len(rows) == len(samples) > 1 and not unnamed:
        return samples, [
            f"all {len(rows)} DICOM files name the same patient, as anonymised files do: they"
            " cannot be grouped by patient; give the groups in a csv or with data.group_pattern"
        ]
    notes = []
    if counts:
        notes.append(
            f"grouped {counted(len(rows) - unnamed, 'DICOM file')} by the patient in their headers:"
            f" {counted(len(counts), 'patient')}"
        )
    if unnamed:
        notes.append(
            f"no patient in {unnamed} of {len(rows)} DICOM files: each is its own group unless a"
            " csv gives its group"
        )
    hashed = dict(zip(counts, hash_names(counts), strict=True))
    groups = list(samples.groups)
    for row, patient in zip(rows, patients, strict=True):
        groups[row] = hashed.get(patient, "")
    return samples.with_column(groups=groups), notes


def _is_dicom(root: Path, path: str) -> bool:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return True
    return may_need_content(suffix) and kind_of_file(root / path) == "DICOM"


def _patient(path: Path) -> str:
    """Return patient id and its issuer, or empty; damaged files are reported when read as images.

    Raises:
        MedvisionError: If pydicom is not installed.
    """
    try:
        with open_regular(path) as stream:
            number, issuer = dicom_texts(stream, _PATIENT, where=str(path))
    except OSError:
        return ""
    except MedvisionError as fault:
        if isinstance(fault.__cause__, ImportError):
            raise
        return ""
    return f"{number}\0{issuer}" if number else ""
