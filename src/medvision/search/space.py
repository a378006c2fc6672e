"""Search space: keys of the config and their possible values.

Imports nothing slow: optuna is loaded when a distribution is requested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from medvision.errors import MedvisionError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


Value = float | int | str
"""Value of a key in a trial: a number, or an option as written on a command line."""

MOST_GRID = 100_000
"""Largest number of points in a grid; no search runs more."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Range of numbers.

    Attributes:
        low: Smallest value.
        high: Largest value.
        whole: If True, only integers.
        log: If True, uniform on a logarithmic scale.
        step: Distance between values; None for any value.
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("both ends must be finite")
        if self.low > self.high:
            raise ValueError(f"the low end {self.low:g} is above the high end {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"expected a log interval above 0, got the low end {self.low:g}")
        if self.log and self.step not in (None, 1):
            raise ValueError("a log interval cannot have steps")

    def distribution(self) -> BaseDistribution:
        """Equivalent optuna distribution."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def points(self) -> list[Value] | None:
        """Every value, if they are countable."""
        if self.whole and not self.log:
            stride = 1 if self.step is None else int(self.step)
            return list(range(int(self.low), int(self.high) + 1, stride))
        if self.step is None:
            return None
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        return [float(low + number * step) for number in range(int((high - low) / step) + 1)]

    def nearest(self, value: float) -> Value:
        """Exact value for a drawn one: sums of steps are inexact in floats."""
        points = self.points() if self.step is not None else None
        if points is None:
            return int(value) if self.whole else float(value)
        return min(points, key=lambda point: abs(float(point) - value))

    def described(self) -> str:
        """Description, such as ``1e-05 to 0.01, log``."""
        words = f"{self.low:g} to {self.high:g}"
        if self.step is not None and not (self.whole and self.step == 1):
            words += f" by {self.step:g}"
        return words + ", whole" * self.whole + ", log" * self.log

    def plain(self) -> dict[str, Any]:
        """Plain values for files."""
        numbers: dict[str, Any] = {"low": self.low, "high": self.high}
        step = {} if self.step is None else {"step": self.step}
        return {"kind": "int" if self.whole else "float", **numbers, **step, "log": self.log}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Set of unordered values.

    Attributes:
        options: Each as written on a command line.
    """

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.options)) < len(self.options):
            raise ValueError("an option appears twice")

    def distribution(self) -> BaseDistribution:
        """Equivalent optuna distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)

    def points(self) -> list[Value]:
        """Every option."""
        return list(self.options)

    def nearest(self, value: str) -> Value:
        """Return the drawn option."""
        return value

    def described(self) -> str:
        """Description in words."""
        return ", ".join(self.options)

    def plain(self) -> dict[str, Any]:
        """Plain values for files."""
        return {"kind": "choice", "options": list(self.options)}


@dataclass(frozen=True, kw_only=True)
class Key:
    """Key that a search varies.

    Attributes:
        name: Full name, such as ``optimizer.lr``.
        given: Name with the sign in front of it in the command, such as ``+model.depth``.
        values: Possible values.
    """

    name: str
    given: str
    values: Numbers | Options

    def override(self, value: Value) -> str:
        """Override that sets the key to this value."""
        return f"{self.given}={value}"


def distributions(keys: Sequence[Key]) -> dict[str, BaseDistribution]:
    """Distributions in optuna, by name of the key."""
    return {key.name: key.values.distribution() for key in keys}


def grid(keys: Sequence[Key]) -> list[dict[str, Value]]:
    """Every combination of values; the last key varies fastest.

    Raises:
        MedvisionError: If the values of a key are not countable, or there are too many
            combinations.
    """
    axes: dict[str, list[Value]] = {}
    for key in keys:
        points = key.values.points()
        if points is None:
            raise MedvisionError(
                "a grid requires a finite number of values",
                where=key.name,
                hint=f"give {key.name}=choice(...) or range(from,to,step), or use sweep=random",
            )
        axes[key.name] = points
    size = math.prod(map(len, axes.values()))
    if size > MOST_GRID:
        raise MedvisionError(
            f"the grid has {size} points", where="sweep=grid", hint="use sweep=random or sweep=tpe"
        )
    return [dict(zip(axes, point, strict=True)) for point in islice(product(*axes.values()), size)]
