"""How far a difference of means would move with other seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from scipy import special


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """The spread over seeds of two groups of runs; None where too few seeds tell it.

    Attributes:
        std_a: Sample standard deviation (n - 1) of A's scores over its seeds.
        std_b: The same of B.
        standard_error: Of the difference of the two means over seeds.
        interval: Low and high end of the difference with other seeds, on the same images.
    """

    std_a: float | None
    std_b: float | None
    standard_error: float | None
    interval: tuple[float, float] | None


def seed_spread(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> SeedSpread:
    """Compare the spread of two groups over their seeds, which are paired in no way.

    Args:
        a: Score of A with each of its seeds; one alone has no spread.
        b: The same of B.
        confidence: Wished coverage of Welch's interval, in (0, 1).

    References:
        Welch, The Generalization of Student's Problem, Biometrika 1947
    """
    std_a, std_b = (statistics.stdev(values) if len(values) > 1 else None for values in (a, b))
    if std_a is None or std_b is None:
        return SeedSpread(std_a=std_a, std_b=std_b, standard_error=None, interval=None)
    difference = statistics.fmean(b) - statistics.fmean(a)
    parts = std_a**2 / len(a), std_b**2 / len(b)
    error = sqrt(sum(parts))
    reach = 0.0
    if error > 0:
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
        reach = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
    return SeedSpread(
        std_a=std_a,
        std_b=std_b,
        standard_error=error,
        interval=(difference - reach, difference + reach),
    )
