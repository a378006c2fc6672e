"""One thing that is wrong or odd about a data set, in a sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import ListedSet

Severity = Literal["leak", "conflict", "fault", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("leak", "conflict", "fault", "warning", "note")
"""From what makes a score untrue to what is only worth knowing."""

SPOILING: tuple[Severity, ...] = ("leak", "conflict", "fault")
"""These make a test score untrue or training impossible: the audit ends with exit code 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one finder found.

    Attributes:
        kind: Stable name, such as ``groups_across_splits``.
        severity: One of ``SEVERITIES``.
        text: One sentence with the counts, without a full stop.
        count: Images or pairs concerned.
        files: All of their names, by weight; screens show the first few.
        advice: What to do about it, without a full stop.
    """

    kind: str
    severity: Severity
    text: str
    count: int
    files: tuple[str, ...] = ()
    advice: str = ""

    @property
    def spoils(self) -> bool:
        """Whether a test score is untrue or training impossible because of it."""
        return self.severity in SPOILING

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "files": list(self.files)}


def some_of(count: int, total: int, noun: str, verb: str = "are") -> str:
    """Return the beginning of a sentence, "12 of 40 masks are"; a single one "is" or "has"."""
    singular = {"are": "is", "have": "has", "hold": "holds", "look": "looks", "span": "spans"}
    return f"{count} of {total} {noun} {singular[verb] if count == 1 else verb}"


def finding_about(
    data: ListedSet,
    rows: NDArray[np.intp],
    *,
    kind: str,
    severity: Severity,
    text: str,
    advice: str,
) -> Finding:
    """Return a finding about the images of some rows, named in this order."""
    files = tuple(map(data.shown, rows.tolist()))
    return Finding(
        kind=kind, severity=severity, text=text, count=len(files), files=files, advice=advice
    )
