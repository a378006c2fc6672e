"""One finding of an audit, and the rule by which a value counts as an outlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def findings_of(
    files: Sequence[str], *, kind: str, severity: Severity, text: str, advice: str
) -> list[Finding]:
    """Return the finding about some files, in this order; none about no files."""
    found = Finding(
        kind=kind, severity=severity, text=text, count=len(files), files=tuple(files), advice=advice
    )
    return [found] if files else []


MIN_VALUES = 20
"""Among fewer values nothing is far from the rest."""

_SIGMA = 1.4826  # times the median absolute deviation: the standard deviation of a normal sample


def robust_distance(values: ArrayLike, *, floor: float) -> NDArray[np.float64]:
    """Return how many standard deviations each value lies from the median, (N,).

    The standard deviation is 1.4826 times the median absolute deviation, which half of the values
    can be wrong without moving.

    Args:
        values: Finite numbers (N,) on a scale where steps weigh alike.
        floor: Smallest standard deviation: values that are nearly all equal make no outliers of
            those that differ by a trifle.
    """
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        return numbers
    offsets = np.abs(numbers - np.median(numbers))
    return offsets / max(_SIGMA * float(np.median(offsets)), floor)


def far_rows(
    distance: NDArray[np.float64], *, limit: float, most: float = 0.02
) -> NDArray[np.intp]:
    """Return the rows farther than a limit, the farthest first.

    None where they are more than the share ``most``: that many are a second kind of image, or a
    wide distribution, not outliers; nor among fewer than ``MIN_VALUES``.
    """
    rows = np.flatnonzero(distance > limit)
    if len(distance) < MIN_VALUES or len(rows) > max(1, most * len(distance)):
        return rows[:0]
    return rows[np.argsort(-distance[rows], kind="stable")]
