"""Exact sentences: the winner, its certainty, and what is unknown."""

from typing import Any

import pytest

from medvision.reports.verdicts import about, p_in_words, probability_in_words, sentence_of

NAMES = ("small", "large")


def pair(verdict: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "a": 0.874,
        "b": 0.912,
        "difference": 0.038,
        "ci95": [0.021, 0.056],
        "p": 0.0004,
        "p_holm": 0.0004,
        "p_holm_all": 0.0004,
        "probability_b_better": 0.9995,
        "images_needed": 40,
        "num_images": 100,
        "num_units": 60,
        "seeds": {"std_a": 0.01, "std_b": 0.02, "standard_error": 0.011, "ci95": [0.01, 0.066]},
    }
    known: dict[str, Any] = {
        "a": 1,
        "b": 2,
        "num_seeds": [4, 5],
        "grouped": True,
        "num_comparisons": 1,
        "headline": "dice",
        "metrics": {"dice": found | more},
        "verdict": verdict,
        "winner": 2,
    }
    return known


def printed(found: dict[str, Any]) -> str:
    return sentence_of(found, NAMES, task="segmentation")


def test_a_winner() -> None:
    assert printed(pair("better")) == (
        "large is better than small: Dice 0.912 against 0.874, difference +0.038 (95 % interval"
        " +0.021 to +0.056), permutation p 0.0004; the probability that large is truly better on"
        " other patients like these is above 0.999. Over the seeds (4 and 5) the difference has a"
        " standard error of 0.011, and its interval also excludes zero."
    )


def test_a_winner_named_first_has_the_sign_of_a_winner() -> None:
    numbers = {"a": 0.912, "b": 0.874, "difference": -0.038, "ci95": [-0.056, -0.021]}
    text = printed(pair("better", **numbers, probability_b_better=0.0012) | {"winner": 1})
    assert text.startswith(
        "small is better than large: Dice 0.912 against 0.874, difference +0.038 (95 % interval"
        " +0.021 to +0.056)"
    )
    assert (
        "the probability that small is truly better on other patients like these is 0.999" in text
    )


def test_one_seed_of_one_group_leaves_its_spread_unknown() -> None:
    seeds = {"std_a": None, "std_b": 0.027, "standard_error": None, "ci95": None}
    assert printed(pair("better_model", seeds=seeds) | {"num_seeds": [1, 5]}).endswith(
        "This compares trained models, not methods: with one seed of small its spread over seeds is"
        " unknown (that of large has a standard deviation of 0.027)."
    )


def test_a_spread_over_seeds_as_large_as_the_difference() -> None:
    seeds = {"std_a": 0.05, "std_b": 0.04, "standard_error": 0.03, "ci95": [-0.03, 0.106]}
    text = printed(pair("better_within_seeds", seeds=seeds))
    assert text.startswith("The trained models of large score better than those of small: Dice")
    assert text.endswith(
        "There is no winner between the methods: over the seeds (4 and 5) the difference lies"
        " between -0.030 and +0.106, so other seeds may reverse it."
    )


def test_no_winner_and_the_number_of_images_needed() -> None:
    few = {"difference": 0.004, "ci95": [-0.01, 0.02], "p": 0.61, "images_needed": 4123}
    assert printed(pair("no_winner", **few)).endswith(
        " To detect a true difference of this size in 8 of 10 such tests, about 4,000 test images"
        " would be needed; there are 100."
    )
    assert printed(pair("no_winner", **few | {"images_needed": None})).endswith("is above 0.999.")


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        pytest.param({"p": 0.02}, "with so many comparisons it may be chance.", id="holm"),
        pytest.param({"p": 0.06}, "Interval and p disagree", id="p"),
        pytest.param({"ci95": [-0.001, 0.056]}, "Interval and p disagree", id="interval"),
    ],
)
def test_a_borderline_case_has_a_reason_for_no_winner(numbers: dict[str, Any], words: str) -> None:
    assert words in printed(pair("no_winner", **numbers))


def test_without_a_score_there_is_no_claim() -> None:
    nothing = pair("unknown") | {"headline": None, "metrics": {}, "winner": None}
    assert (
        printed(nothing)
        == "No winner can be determined between small and large: no score is defined."
    )


def test_synthetic_images_are_not_called_patients() -> None:
    text = sentence_of(pair("better"), NAMES, task="segmentation", synthetic=True)
    assert "on other images like these" in text


@pytest.mark.parametrize(
    ("count", "words"), [(9, "9"), (96, "100"), (4923, "5,000"), (149, "100"), (1, "1")]
)
def test_numbers_of_images_are_rounded_to_one_digit(count: int, words: str) -> None:
    assert about(count) == words


def test_numbers_claim_no_certainty() -> None:
    assert [probability_in_words(v) for v in (None, 0.99999, 0.0001, 0.5)] == [
        "undefined",
        "above 0.999",
        "below 0.001",
        "0.500",
    ]
    assert [p_in_words(v) for v in (None, 0.0001, 0.049)] == ["-", "0.0001", "0.049"]
