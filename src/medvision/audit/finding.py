"""Finding of an audit, and the definition of an outlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Severity = Literal["leak", "conflict", "fault", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("leak", "conflict", "fault", "warning", "note")
"""Severities in descending order, from an invalid score to a remark."""

SPOILING: tuple[Severity, ...] = ("leak", "conflict", "fault")
"""Severities that invalidate a test score or prevent training; the audit exits with code 1."""

CROSSINGS: tuple[tuple[str, str], ...] = (("test", "train"), ("val", "train"), ("test", "val"))
"""Splits that must not share a picture or a group, the most severe case first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Finding of an audit.

    Attributes:
        kind: Stable name, such as ``groups_across_splits``.
        severity: One of ``SEVERITIES``.
        text: One sentence with the counts, without a full stop.
        count: Images or pairs concerned.
        files: Their names, the most important first; screens show the first few.
        advice: Recommended action, without a full stop.
    """

    kind: str
    severity: Severity
    text: str
    count: int
    files: tuple[str, ...] = ()
    advice: str = ""

    @property
    def spoils(self) -> bool:
        """True if the finding invalidates a test score or makes training impossible."""
        return self.severity in SPOILING

    @property
    def with_advice(self) -> str:
        """The text and the advice, if there is any, in one line."""
        return f"{self.text}; {self.advice}" if self.advice else self.text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "files": list(self.files)}

    def without_files(self) -> dict[str, Any]:
        """Return plain values for the summary of a run, which names no files."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


def some_of(count: int, total: int, noun: str, verb: str = "are") -> str:
    """Return the start of a sentence, "12 of 40 masks are", with "is" or "has" for a single one."""
    singular = {
        "are": "is",
        "have": "has",
        "contain": "contains",
        "differ": "differs",
        "look": "looks",
        "span": "spans",
    }
    return f"{count} of {total} {noun} {singular[verb] if count == 1 else verb}"


def findings_of(
    files: Sequence[str], *, kind: str, severity: Severity, text: str, advice: str
) -> list[Finding]:
    """Return a list with the finding about the files in this order, empty if there are no files."""
    found = Finding(
        kind=kind, severity=severity, text=text, count=len(files), files=tuple(files), advice=advice
    )
    return [found] if files else []


MIN_VALUES = 20
"""Smallest number of values for which outliers are defined."""

_SIGMA = 1.4826  # standard deviation / median absolute deviation of a normal distribution


def robust_distance(values: ArrayLike, *, floor: float) -> NDArray[np.float64]:
    """Return how many standard deviations each value lies from the median, (N,).

    The standard deviation is estimated as 1.4826 times the median absolute deviation, which is
    robust to outliers in up to half of the values.

    Args:
        values: Finite numbers (N,) on a scale where equal differences are equally important.
        floor: Smallest standard deviation, so that tiny differences among nearly equal values are
            not outliers.
    """
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        return numbers
    offsets = np.abs(numbers - np.median(numbers))
    return offsets / max(_SIGMA * float(np.median(offsets)), floor)


def far_rows(
    distance: NDArray[np.float64], *, limit: float, most: float = 0.02
) -> NDArray[np.intp]:
    """Return the rows beyond a limit, the farthest first.

    Empty if their share exceeds ``most``, because they are then a second kind of image or a wide
    distribution, or if there are fewer than ``MIN_VALUES`` values.
    """
    rows = np.flatnonzero(distance > limit)
    if len(distance) < MIN_VALUES or len(rows) > max(1, most * len(distance)):
        return rows[:0]
    return rows[np.argsort(-distance[rows], kind="stable")]
