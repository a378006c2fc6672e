"""Images of one patient belong together: the patient of each DICOM file as its group."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from medvision.data.dicom import SUFFIXES, dicom_texts
from medvision.data.group_salt import hash_names
from medvision.data.sample import Sample
from medvision.data.sample_table import SampleTable
from medvision.types import MedvisionError

_PATIENT = ("PatientID", "IssuerOfPatientID")
_AT_ONCE = 64
_MAX_WORKERS = 8


def group_by_patient(root: Path, samples: Sequence[Sample]) -> tuple[SampleTable, list[str]]:
    """Return the samples with the patients of DICOM files as groups, and notes.

    Groups that a csv or a pattern gave stay. What is returned is a salted hash already: no
    patient's number goes any further than this function.

    Args:
        root: The data folder.
        samples: Of it; only files named ``.dcm`` or ``.dicom`` are opened.
    """
    table = SampleTable.of(samples)
    rows = [
        row
        for row, (path, group) in enumerate(zip(table.paths, table.groups, strict=True))
        if not group and PurePosixPath(path).suffix.lower() in SUFFIXES
    ]
    if not rows:
        return table, []
    paths = [root / table.paths[row] for row in rows]
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool:
        patients = list(pool.map(_patient, paths, chunksize=_AT_ONCE))
    counts = Counter(patients)
    unnamed = counts.pop("", 0)
    if len(counts) == 1 and len(rows) == len(table) > 1 and not unnamed:
        return table, [
            f"all {len(rows)} DICOM files name the same patient, as files do whose patients were"
            " made unknown: they cannot be kept apart by patient; name the groups in a csv or"
            " with data.group_pattern"
        ]
    notes = []
    if counts:
        notes.append(
            f"{len(counts)} patients of {len(rows) - unnamed} DICOM files were kept together,"
            " as their headers name them"
        )
    if unnamed:
        notes.append(
            f"{unnamed} of {len(rows)} DICOM files name no patient: they are groups of their own"
            " unless a csv names theirs"
        )
    hashed = dict(zip(counts, hash_names(counts), strict=True))
    groups = list(table.groups)
    for row, patient in zip(rows, patients, strict=True):
        groups[row] = hashed.get(patient, "")
    return table.with_column(groups=groups), notes


def _patient(path: Path) -> str:
    """Number of the patient and who gave it, or nothing: what is damaged is told when it is read.

    Raises:
        MedvisionError: If pydicom is not installed.
    """
    try:
        with path.open("rb") as stream:
            number, issuer = dicom_texts(stream, _PATIENT, where=str(path))
    except OSError:
        return ""
    except MedvisionError as fault:
        if isinstance(fault.__cause__, ImportError):
            raise
        return ""
    return f"{number}\0{issuer}" if number else ""
