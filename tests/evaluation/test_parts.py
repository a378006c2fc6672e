from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.evaluation import parts
from medvision.evaluation.parts import detectable_differences, subgroup_table

VALUES = np.array([0.9, 0.7, 0.5, 0.3, 0.8, 0.6])


def scores(rows: NDArray[np.intp]) -> dict[str, Any]:
    """Mean of some images with an interval of 0.1 on either side."""
    mean = float(VALUES[rows].mean())
    return {"dice": mean, "dice_ci95": [mean - 0.1, mean + 0.1]}


TESTED = parts.Tested(paths=list("abcdef"), scores=scores, groups=None)


def test_subgroups_are_scored_apart_and_the_largest_gap_is_named() -> None:
    age = {"a": "0-17", "b": "0-17", "c": "65+", "d": "65+", "e": "18-64"}  # f is blank
    found = subgroup_table(TESTED, {"age": age})["age"]
    assert [(g["name"], g["num_images"], g["dice"]) for g in found["groups"]] == [
        ("0-17", 2, pytest.approx(0.8)),
        ("18-64", 1, pytest.approx(0.8)),
        ("65+", 2, pytest.approx(0.4)),
        ("not stated", 1, pytest.approx(0.6)),
    ]
    gap = found["largest_gap"]["dice"]
    assert gap["gap"] == pytest.approx(0.4)
    assert gap["between"][1] == "65+"
    assert gap["gap_ci95"] == pytest.approx([0.4 - 0.1 * 2**0.5, 0.4 + 0.1 * 2**0.5])


def test_a_column_of_identifiers_is_no_subgroup() -> None:
    paths = [str(n) for n in range(30)]
    tested = parts.Tested(paths=paths, scores=scores, groups=None)
    assert subgroup_table(tested, {"id": {p: p for p in paths}}) == {"id": {"num_values": 30}}


def test_one_value_has_no_gap() -> None:
    found = subgroup_table(TESTED, {"site": dict.fromkeys("abcdef", "A")})["site"]
    assert found["largest_gap"] == {}


def test_the_detectable_difference_follows_from_the_interval() -> None:
    half = 1.959964 * 0.02  # a standard error of 0.02
    found = detectable_differences({"dice": 0.8, "dice_ci95": [0.8 - half, 0.8 + half], "iou": 0.7})
    assert found == {"dice": pytest.approx((1.959964 + 0.841621) * 0.02, abs=1e-6)}
