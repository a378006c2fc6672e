import numpy as np
import pytest
from scipy import special

from medvision.evaluation.classification import ValidationChoices
from medvision.metrics import apply_temperature, choose_threshold, fit_temperature

TWO = ["well", "ill"]


def draw(num_classes: int = 2, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num_classes)
    target = rng.integers(num_classes, size=size)
    logits = rng.normal(size=(size, num_classes)) * 2 + 3 * np.eye(num_classes)[target]
    return logits - logits[:, :1], target


def test_a_rule_chooses_once_and_reports_the_origin_of_the_threshold() -> None:
    logits, target = draw()
    probability = special.softmax(logits, axis=1)
    choices = ValidationChoices(TWO, threshold="youden")
    assert (choices.threshold, choices.chosen_on) == (0.5, "val")
    choices.learn(logits, target, probability=probability)
    assert choices.threshold == choose_threshold(probability[:, 1], target)
    assert choices.details()["threshold_rule"] == {
        "rule": "youden",
        "chosen_on": "val",
        "num_images": 200,
    }
    assert choices.notes == [
        f"ill is predicted at a probability of {choices.threshold:.4f} or more: the threshold of"
        " the best Youden's J on the validation images; test images were not used"
    ]


def test_a_requested_sensitivity_is_stored_with_its_rule() -> None:
    logits, target = draw()
    choices = ValidationChoices(TWO, threshold="sensitivity", sensitivity=0.9)
    choices.learn(logits, target, probability=special.softmax(logits, axis=1))
    assert choices.details()["threshold_rule"]["sensitivity"] == 0.9
    found = special.softmax(logits[target == 1], axis=1)[:, 1] >= choices.threshold
    assert 0.9 <= found.mean() < 0.92


def test_a_numeric_threshold_stays_fixed() -> None:
    choices = ValidationChoices(TWO, threshold=0.3)
    choices.learn(*draw(), probability=special.softmax(draw()[0], axis=1))
    assert choices.threshold == 0.3
    assert choices.details()["threshold_rule"] == {"rule": "fixed", "chosen_on": "fixed"}
    known = ValidationChoices(TWO, threshold=0.3, chosen_on="val")  # by which rule is not known
    assert "threshold_rule" not in known.details()


def test_the_temperature_is_that_of_the_validation_images() -> None:
    logits, target = draw(4)
    choices = ValidationChoices(["a", "b", "c", "d"])
    choices.learn(logits, target)
    assert choices.details() == {
        "calibration": {
            "temperature": fit_temperature(logits, target).value,
            "fitted_on": "val",
            "num_images": 200,
        }
    }
    before = choices.temperature
    choices.learn(logits * 3, target)
    assert choices.temperature == before  # once


def test_the_temperature_of_the_run_is_kept_and_not_reported_again() -> None:
    choices = ValidationChoices(TWO, threshold=0.4, chosen_on="val", temperature=1.7)
    choices.learn(*draw())
    assert (choices.temperature, choices.details(), choices.notes) == (1.7, {}, [])


@pytest.mark.parametrize("threshold", [0.0, 0.12, 0.5, 0.93])
def test_calibrated_probabilities_give_the_same_decisions_at_the_reported_threshold(
    threshold: float,
) -> None:
    logits, target = draw()
    choices = ValidationChoices(TWO, threshold=threshold)
    choices.learn(logits, target)
    moved = choices.details()["calibration"]["threshold_calibrated"]
    assert choices.temperature is not None
    calibrated = apply_temperature(logits, choices.temperature)[:, 1]
    raw = special.softmax(logits, axis=1)[:, 1]
    assert ((calibrated >= moved) == (raw >= threshold)).all()


def test_no_temperature_is_fitted_to_validation_images_of_one_class_and_a_note_says_so() -> None:
    choices = ValidationChoices(TWO)
    choices.learn(draw()[0], np.ones(200, int))
    assert choices.temperature is None
    assert "calibration" not in choices.details()
    assert choices.notes == [
        "no temperature is fitted and the probabilities are unchanged: all validation images have"
        " the same class"
    ]


def test_a_note_reports_what_limits_the_temperature() -> None:
    choices = ValidationChoices(TWO)
    choices.learn(*(part[:40] for part in draw()))
    assert choices.notes == ["the temperature was fitted on only 40 validation images"]
