import numpy as np
import pytest

from medvision.evaluation import base
from medvision.evaluation.base import DuplicatesInTraining
from medvision.metrics import wilson_interval

TWINS = DuplicatesInTraining(
    duplicate_of={"b": "train/1", "d": "train/2"},
    recalled={"a": 0.0, "b": 1.0, "c": 1.0, "d": 1.0},
    metric="accuracy",
)
RIGHT = np.array([1.0, 0.0, 0.0, 1.0])


def images(paths: str = "abcd", groups: list[str] | None = None) -> base.Tested:
    return base.Tested(
        paths=list(paths),
        scores=lambda rows: {"accuracy": float(RIGHT[rows].mean()), "accuracy_ci95": None},
        groups=groups,
    )


def test_images_with_and_without_a_near_duplicate_in_training_are_scored_separately() -> None:
    table = TWINS.table(images())
    assert table["with_twin"] == {"num_images": 2, "accuracy": 0.5, "accuracy_ci95": None}
    assert table["without_twin"]["num_images"] == 2
    assert table["without_twin"]["accuracy"] == 0.5


def test_the_scores_of_the_nearest_training_image_are_included() -> None:
    recalled = TWINS.table(images())["memory_baseline"]
    low, high = recalled["with_twin"]["accuracy_ci95"]
    assert (recalled["with_twin"]["accuracy"], high) == (1, 1)
    assert low == pytest.approx(2 / (2 + 1.959964**2))  # Wilson's of two of two
    assert recalled["without_twin"]["accuracy"] == 0.5
    low, high = recalled["without_twin"]["accuracy_ci95"]
    assert (low, high) == pytest.approx(wilson_interval(1, 2))


def test_the_interval_of_the_neighbour_is_over_known_groups() -> None:
    recalled = TWINS.table(images(groups=["p", "q", "p", "q"]))["memory_baseline"]
    assert recalled["without_twin"]["accuracy_ci95"] is None  # one group shows no spread


def test_a_part_without_images_has_no_scores() -> None:
    table = TWINS.table(images("bd"))
    assert table["without_twin"] == {"num_images": 0}
    assert table["memory_baseline"]["without_twin"] == {"accuracy": None, "accuracy_ci95": None}


def test_the_baseline_is_undefined_without_a_nearest_neighbour() -> None:
    table = TWINS.table(images("abce"))
    assert table["memory_baseline"]["without_twin"]["accuracy"] is None
    assert table["memory_baseline"]["with_twin"]["accuracy"] == pytest.approx(1)
