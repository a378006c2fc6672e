"""Values that a search may vary."""

import pytest

from medvision.errors import MedvisionError
from medvision.search.space import Key, Numbers, Options, grid


def key(name: str, values: Numbers | Options) -> Key:
    return Key(name=name, given=name, values=values)


@pytest.mark.parametrize(
    ("values", "points"),
    [
        pytest.param(Numbers(low=1, high=4, whole=True), [1, 2, 3, 4], id="whole"),
        pytest.param(Numbers(low=2, high=8, whole=True, step=3), [2, 5, 8], id="steps"),
        # 0.1 + 2 * 0.1 is 0.30000000000000004 in floats
        pytest.param(Numbers(low=0.1, high=0.3, step=0.1), [0.1, 0.2, 0.3], id="fractions"),
        pytest.param(Numbers(low=0.0, high=1.0), None, id="interval"),
        pytest.param(Numbers(low=1, high=64, whole=True, log=True), None, id="log"),
        pytest.param(Options(options=("bce", "dice")), ["bce", "dice"], id="options"),
    ],
)
def test_the_points_of_a_range_by_hand(
    values: Numbers | Options, points: list[object] | None
) -> None:
    assert values.points() == points


def test_a_drawn_fraction_is_rounded_to_its_exact_value() -> None:
    assert Numbers(low=0.1, high=0.3, step=0.1).nearest(0.1 + 2 * 0.1) == 0.3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"low": 1.0, "high": 0.0}, "the low end 1 is above the high end 0"),
        (
            {"low": 0.0, "high": 1.0, "log": True},
            "expected a log interval above 0, got the low end 0",
        ),
        ({"low": 1.0, "high": 9.0, "log": True, "step": 2.0}, "a log interval cannot have steps"),
        ({"low": 0.0, "high": float("inf")}, "both ends must be finite"),
    ],
)
def test_an_invalid_range_is_refused_with_the_reason(given: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        Numbers(**given)  # type: ignore[arg-type]


def test_a_grid_goes_through_every_combination_the_last_key_fastest() -> None:
    keys = [
        key("a", Numbers(low=1, high=2, whole=True)),
        key("b", Options(options=("x", "y"))),
    ]
    assert grid(keys) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_a_grid_over_an_interval_is_refused_with_a_hint() -> None:
    with pytest.raises(
        MedvisionError, match=r"finite number of values \(lr\); give lr=choice\(\.\.\.\) or range"
    ):
        grid([key("lr", Numbers(low=0.0, high=1.0))])
