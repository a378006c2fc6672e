"""Runs with incomparable scores are refused, and the differences are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvision.comparison.caveats import require_comparable
from medvision.comparison.runs import group_runs, read_run
from medvision.errors import MedvisionError

Make = Callable[..., Path]


def error_of(*runs: Path) -> str:
    with pytest.raises(MedvisionError) as caught:
        require_comparable(group_runs([read_run(run) for run in runs]))
    assert caught.value.exit_code == 2
    return str(caught.value)


def accepted(*runs: Path) -> None:
    require_comparable(group_runs([read_run(run) for run in runs]))


def test_other_seeds_and_settings_are_accepted(make: Make) -> None:
    accepted(make("pets/0"), make("pets/1", 1), make("pets/2", settings={"optimizer.lr": 0.1}))


def test_other_test_images_are_counted(make: Make) -> None:
    runs = [make("pets/0"), make("pets/1", 1, images=("a.png", "z.png"))]
    assert error_of(*runs) == (
        "cannot compare: the test images differ: 4 in pets/0, 2 in pets/1, 1 in both; b.png is in"
        " only one (RUN); compare runs that were tested on the same images"
    )


def test_another_target_of_the_same_image_is_named(make: Make) -> None:
    run = make("pets/0", images=("a.png", "b.png"))
    other = make("pets/1", rows="path,target,predicted\na.png,cat,cat\nb.png,cat,cat\n")
    assert error_of(run, other).startswith(
        "cannot compare: the targets of 1 test image differ between pets/0 and pets/1, such as"
    )


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        pytest.param(
            {"synthetic": True},
            "synthetic images beside real ones: real in pets/0, synthetic in pets/1",
            id="synthetic",
        ),
        pytest.param(
            {"protocol": "merged"},
            "the protocols differ: official in pets/0, merged in pets/1",
            id="protocol",
        ),
        pytest.param(
            {"class_counts": {"test": {"cow": 1, "pig": 1}}},
            "the classes differ: cat, dog in pets/0, cow, pig in pets/1",
            id="classes",
        ),
        pytest.param(
            {"fingerprint": "0123456789"},
            "the data differ: fingerprint ffffffff in pets/0, fingerprint 01234567 in pets/1",
            id="fingerprint",
        ),
    ],
)
def test_other_data_are_refused(make: Make, dataset: dict[str, Any], words: str) -> None:
    runs = [make("pets/0"), make("pets/1", 1, dataset=dataset)]
    assert error_of(*runs) == f"cannot compare: {words} (RUN); compare runs that agree in this"


def test_other_definitions_of_the_scores_are_refused(make: Make) -> None:
    same = make("pets/2", 2, metric_definitions=1)
    accepted(make("pets/0"), same)  # none means the first
    assert error_of(same, make("pets/1", 1, metric_definitions=2)).startswith(
        "cannot compare: the scores are defined differently (metric_definitions):"
        " version 1 in pets/2, version 2 in pets/1"
    )


def test_all_differences_are_reported_at_once(make: Make) -> None:
    other = {"protocol": "merged", "fingerprint": "0123456789"}
    line = error_of(make("pets/0"), make("pets/1", 1, dataset=other))
    assert "the protocols differ" in line
    assert "the data differ" in line
    assert "\n" not in line


def test_known_test_images_may_have_other_training_data(make: Make) -> None:
    test = {"test_fingerprint": "e" * 64}
    more = {"fingerprint": "0" * 64, **test}
    accepted(make("pets/0", dataset=test), make("pets/1", dataset=more))


def test_equal_names_with_different_contents_are_refused(make: Make) -> None:
    runs = [
        make(f"pets/{n}", n, dataset={"test_fingerprint": letter * 64})
        for n, letter in enumerate("de")
    ]
    assert error_of(*runs).startswith(
        "cannot compare: the test images have the same names but different contents"
        " (test_fingerprint) in pets/0 and in pets/1"
    )


def test_a_sealed_run_is_refused_with_the_reason(make: Make) -> None:
    sealed = make("search/0", sealed=True)
    (sealed / "predictions_test.csv").unlink()
    summary = (sealed / "summary.json").read_text()
    (sealed / "summary.json").write_text(summary.replace('"test/', '"val/'))
    assert error_of(make("pets/0"), sealed) == (
        "the run has no test predictions: its test images are sealed, because the run is"
        f" part of a hyper-parameter selection ({sealed}); train the chosen setting once more"
        " outside the search and compare that run"
    )


def test_a_run_without_test_predictions_is_refused(make: Make) -> None:
    runs = [make("pets/0"), make("pets/1", 1)]
    (runs[1] / "predictions_test.csv").unlink()
    assert error_of(*runs).startswith(f"the run has no test predictions ({runs[1]});")


def test_an_image_that_is_tested_twice_is_refused(make: Make) -> None:
    run = make("pets/0", images=("a.png", "a.png"))
    assert error_of(make("pets/1", 1), run).startswith(
        "the predictions of pets/0 contain 1 test image twice"
    )
