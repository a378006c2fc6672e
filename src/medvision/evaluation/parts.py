"""Scores of parts of the test images: near-duplicates of training images, subgroups, patients.

A network can recall images with a near-duplicate in training, so only the other images show how it
performs on unseen images. Both scores are reported together with that of recalling alone: the
class, or the mask, of the training image with the most similar thumbnail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medvision.metrics import mean_interval, proportion_interval
from medvision.scores import is_interval, is_number

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The test images of a run.

    Attributes:
        paths: Path of each image, (N,).
        scores: Function that computes scores with intervals for selected rows.
        groups: Group of each image, or None if unknown.
    """

    paths: Sequence[str]
    scores: Callable[[Rows], Mapping[str, Any]]
    groups: Sequence[Hashable] | None


@dataclass(frozen=True, kw_only=True)
class DuplicatesInTraining:
    """Test images that have a near-duplicate in training; of another data set, also in validation.

    Attributes:
        duplicate_of: Path of the most similar training image, by path of the test image.
        recalled: Score of the nearest training image for each test image, by its path.
        metric: Name of that score; None if recalling has no score.
    """

    duplicate_of: Mapping[str, str]
    recalled: Mapping[str, float]
    metric: Literal["accuracy", "dice"] | None

    def table(self, tested: Tested) -> dict[str, Any]:
        """Compute scores of both kinds of test images, and of recalling.

        Returns:
            ``with_twin`` and ``without_twin``, each with ``num_images`` and scores, and under
            ``memory_baseline`` the same two for the nearest training image.
        """
        paths, scores, groups = tested.paths, tested.scores, tested.groups
        doubled = np.array([path in self.duplicate_of for path in paths], bool)
        parts = {"with_twin": np.flatnonzero(doubled), "without_twin": np.flatnonzero(~doubled)}
        return {
            **{
                name: {"num_images": len(rows), **(scores(rows) if len(rows) else {})}
                for name, rows in parts.items()
            },
            "memory_baseline": {
                name: self._recalled([paths[int(row)] for row in rows], _of(groups, rows))
                for name, rows in parts.items()
            },
        }

    def _recalled(
        self, paths: Sequence[str], groups: Sequence[Hashable] | None
    ) -> dict[str, float | list[float] | None]:
        if self.metric is None:
            return {}
        values = [self.recalled[path] for path in paths if path in self.recalled]
        if len(values) < len(paths) or not values:
            return {self.metric: None, f"{self.metric}_ci95": None}
        mean = float(np.mean(values))
        interval = proportion_interval if self.metric == "accuracy" else mean_interval
        ends = interval(values, groups=groups)
        known = list(ends) if all(map(math.isfinite, ends)) else None
        return {self.metric: mean, f"{self.metric}_ci95": known}


def _of(groups: Sequence[Hashable] | None, rows: Rows) -> list[Hashable] | None:
    return None if groups is None else [groups[int(row)] for row in rows]


NOT_STATED = "not stated"
"""Name of the subgroup of images with a blank cell."""

MOST_VALUES = 20
"""Largest number of values of a column that are shown: more are likely identifiers or numbers."""


def subgroup_table(
    tested: Tested, columns: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """Compute the scores of the images with each value of a column, and the largest gaps.

    Args:
        tested: The test images.
        columns: Value of each image, by its path, by name of the column.

    Returns:
        By column ``groups``, a list of dicts with ``name``, ``num_images`` and scores with their
        intervals, sorted by name; and ``largest_gap``, by score ``gap``, ``gap_ci95`` and
        ``between``, the subgroups with the highest and the lowest value. The interval follows from
        those of the two scores (MOVER). As the largest of several gaps, it is too large by chance.
        A column with more than 20 values has ``num_values`` instead.

    References:
        Newcombe, Interval estimation for the difference between independent proportions, Statistics
        in Medicine 1998
    """
    table: dict[str, dict[str, Any]] = {}
    for column, values in columns.items():
        members: dict[str, list[int]] = {}
        for row, path in enumerate(tested.paths):
            members.setdefault(values.get(path, "") or NOT_STATED, []).append(row)
        if len(members) > MOST_VALUES:
            table[column] = {"num_values": len(members)}
            continue
        groups: list[dict[str, Any]] = [
            {"name": name, "num_images": len(rows), **tested.scores(np.array(rows, np.intp))}
            for name, rows in sorted(members.items(), key=lambda item: _in_order(item[0]))
        ]
        names = [n for n in groups[0] if n not in ("name", "num_images") and "_ci95" not in n]
        gaps = {name: _largest_gap(groups, name) for name in names}
        table[column] = {
            "groups": groups,
            "largest_gap": {n: gap for n, gap in gaps.items() if gap},
        }
    return table


def _in_order(name: str) -> tuple[bool, float, str]:
    """Sort subgroups by the number that they begin with, then by name; unknown values last."""
    digits = name.lstrip("<>=≥≤ ").split("-")[0].split()[0:1]
    try:
        first = float(digits[0]) if digits else math.inf
    except ValueError:
        first = math.inf
    return name == NOT_STATED, first, name


def _largest_gap(groups: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    """Find the two subgroups whose score differs most, without the images of unknown value."""
    known = [g for g in groups if is_number(g.get(name)) and g["name"] != NOT_STATED]
    if len(known) < 2:
        return None
    high, low = max(
        (sorted(pair, key=lambda g: g[name], reverse=True) for pair in combinations(known, 2)),
        key=lambda pair: pair[0][name] - pair[1][name],
    )
    gap, ends = high[name] - low[name], None
    one, other = high.get(f"{name}_ci95"), low.get(f"{name}_ci95")
    if is_interval(one) and is_interval(other):
        ends = [
            gap - math.hypot(high[name] - one[0], other[1] - low[name]),
            gap + math.hypot(one[1] - high[name], low[name] - other[0]),
        ]
    return {"gap": gap, "gap_ci95": ends, "between": [high["name"], low["name"]]}


POWER = 0.8


def detectable_differences(scores: Mapping[str, Any]) -> dict[str, float]:
    r"""Smallest difference of each score that these test images show with a power of 80 %.

    .. math:: (z_{0.975} + z_{0.8})\, \mathrm{SE}

    at a two-sided level of 5 %, for the difference from a fixed value, such as a published score;
    the standard error is the half width of the 95 % interval over :math:`z_{0.975}`. It also holds
    for two networks on the same images whose results correlate by 0.5: for more alike networks it
    is smaller.

    Args:
        scores: Scores of all test images, with their intervals under ``<name>_ci95``.
    """
    factor = 1 + special.ndtri(POWER) / special.ndtri(0.975)
    return {
        name: float(factor * (ends[1] - ends[0]) / 2)
        for name, ends in ((name, scores.get(f"{name}_ci95")) for name in scores)
        if is_interval(ends) and ends[1] > ends[0]
    }


def several_per_group(groups: Sequence[Hashable] | None) -> bool:
    """Return True if groups are known, and one has several images, but not all of them."""
    return groups is not None and 1 < len(set(groups)) < len(groups)
