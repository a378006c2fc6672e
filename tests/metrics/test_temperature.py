import numpy as np
import pytest
import torch
from scipy import optimize, special

from medvision.errors import MedvisionError
from medvision.metrics import apply_temperature, fit_temperature, logits_of, probabilities


def draw(num_classes: int, size: int = 300, *, true: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits too large by a factor, and targets drawn from the true probabilities."""
    rng = np.random.default_rng(num_classes)
    right = rng.normal(size=(size, num_classes)) * 2
    chance = special.softmax(right, axis=1)
    target = np.array([rng.choice(num_classes, p=row) for row in chance])
    return right * true, target


def loss(logits: np.ndarray, target: np.ndarray, temperature: float) -> float:
    return float(
        torch.nn.functional.cross_entropy(torch.tensor(logits / temperature), torch.tensor(target))
    )


def test_value_by_hand() -> None:
    # the likelier class is correct in 3/4: sigmoid(4 / T) = 3/4
    logits = np.array([[0.0, 4.0]] * 4)
    fitted = fit_temperature(logits, np.array([1, 1, 1, 0]))
    assert fitted.value == pytest.approx(4 / np.log(3), rel=1e-9)
    assert fitted.num_images == 4


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_an_independent_minimisation_agrees(num_classes: int) -> None:
    logits, target = draw(num_classes)
    found = fit_temperature(logits, target).value
    reference = optimize.minimize_scalar(
        lambda log_t: loss(logits, target, np.exp(log_t)),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found == pytest.approx(np.exp(reference.x), rel=1e-4)
    near = [loss(logits, target, found * factor) for factor in (0.99, 1.0, 1.01)]
    assert near[1] == min(near)


def test_a_network_with_doubled_logits_has_temperature_two() -> None:
    logits, target = draw(4, 20_000)
    assert fit_temperature(logits, target).value == pytest.approx(2, rel=0.03)
    assert fit_temperature(logits / 4, target).value == pytest.approx(0.5, rel=0.03)


def test_scaled_logits_scale_the_temperature_and_constants_change_nothing() -> None:
    logits, target = draw(3)
    found = fit_temperature(logits, target).value
    assert fit_temperature(3 * logits, target).value == pytest.approx(3 * found)
    moved = logits + np.linspace(-9, 9, len(logits))[:, None]
    assert fit_temperature(moved, target).value == pytest.approx(found)
    assert fit_temperature(logits[::-1], target[::-1]).value == pytest.approx(found)


@pytest.mark.parametrize("scale", [0.3, 3.0, 10.0])
def test_correctly_classified_images_limit_the_confidence(scale: float) -> None:
    logits = scale * np.array([[0.0, 1.0], [0.0, 2.0], [0.0, -1.0], [0.0, -3.0]])
    fitted = fit_temperature(logits, np.array([1, 1, 0, 0]))
    confidence = apply_temperature(logits, fitted.value).max(axis=1).mean()
    assert confidence == pytest.approx(5 / 6)  # Laplace: (4 + 1) / (4 + 2)
    assert fitted.note.startswith("all 4 validation images are classified correctly")


def test_uninformative_logits_reach_the_upper_bound_and_equal_ones_the_lower() -> None:
    wrong = fit_temperature(np.array([[0.0, 3.0], [0.0, -3.0]] * 100), np.array([0, 1] * 100))
    assert wrong.value == 20
    assert "reached its bound of 20" in wrong.note
    tiny = np.array([[0.0, 1e-4]] * 150 + [[0.0, -1e-4]] * 150 + [[0.0, 1e-4]])
    equal = fit_temperature(tiny, np.array([1] * 150 + [0] * 151))
    assert equal.value == 0.05
    assert "reached its bound of 0.05" in equal.note


def test_few_images_are_noted() -> None:
    logits, target = draw(2)
    assert fit_temperature(logits[:99], target[:99]).note == (
        "the temperature was fitted on only 99 validation images"
    )
    assert fit_temperature(logits, target).note == ""


@pytest.mark.parametrize("temperature", [0.05, 0.6, 1.0, 3.0, 20.0])
def test_decisions_and_ranks_are_unchanged(temperature: float) -> None:
    logits, _ = draw(4)
    calibrated = apply_temperature(logits, temperature)
    assert calibrated.sum(axis=1) == pytest.approx(1)
    assert (calibrated.argmax(axis=1) == logits.argmax(axis=1)).all()
    two = np.pad(logits[:, :1], ((0, 0), (1, 0)))
    positive = apply_temperature(two, temperature)[:, 1]
    assert ((positive >= 0.5) == (logits[:, 0] >= 0)).all()
    assert (np.diff(positive[np.argsort(logits[:, 0])]) >= 0).all()


def test_temperature_one_gives_the_probabilities_of_the_network() -> None:
    for num_outputs in (1, 5):
        logits = torch.randn(40, num_outputs, generator=torch.Generator().manual_seed(0)) * 3
        raw = probabilities(logits).numpy()
        known = np.pad(logits.double().numpy(), ((0, 0), (num_outputs == 1, 0)))
        assert apply_temperature(known, 1.0) == pytest.approx(raw, abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_probabilities_to_the_power_of_one_over_t_are_those_of_the_logits(num_classes: int) -> None:
    logits, target = draw(num_classes)
    stored = special.softmax(logits, axis=1)
    powers = stored ** (1 / 1.7)
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert apply_temperature(logits, 1.7) == pytest.approx(expected, abs=1e-12)
    assert apply_temperature(logits_of(stored), 1.7) == pytest.approx(expected, abs=1e-12)
    assert fit_temperature(logits_of(stored), target).value == pytest.approx(
        fit_temperature(logits, target).value
    )


def test_saturated_float32_probabilities_are_handled() -> None:
    for logits in (torch.tensor([[40.0], [-40.0], [-200.0], [90.0]]), torch.eye(3) * 300):
        stored = probabilities(logits).float().double().numpy()
        assert (stored == 0).any()
        known = logits_of(stored)
        assert np.isfinite(known).all()
        calibrated = apply_temperature(known, 4.0)
        assert (calibrated.argmax(axis=1) == stored.argmax(axis=1)).all()
    wrong = logits_of(np.array([[0.0, 1.0]] * 99 + [[1.0, 0.0]]))
    assert 1 < fit_temperature(wrong, np.ones(100, int) - (np.arange(100) == 50)).value < 20


def test_stored_probabilities_give_the_temperature_to_four_digits() -> None:
    logits, target = draw(2)
    stored = probabilities(torch.tensor(logits[:, 1:] - logits[:, :1])).double().numpy()
    assert fit_temperature(logits_of(stored), target).value == pytest.approx(
        fit_temperature(logits, target).value, rel=1e-4
    )


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(MedvisionError, match=r"images of one class \(validation images\)"):
        fit_temperature([[0.0, 1.0], [0.0, 2.0]], [1, 1])
    with pytest.raises(ValueError, match=r"got \(2, 2\) and \(3,\)"):
        fit_temperature([[0.0, 1.0], [0.0, 2.0]], [1, 1, 0])
    with pytest.raises(ValueError, match="finite logits"):
        fit_temperature([[0.0, np.inf], [0.0, 2.0]], [1, 0])
    with pytest.raises(ValueError, match=r"targets in \[0, 2\), got 0 to 2"):
        fit_temperature([[0.0, 1.0], [0.0, 2.0]], [2, 0])
    with pytest.raises(ValueError, match="integer targets"):
        fit_temperature([[0.0, 1.0], [0.0, 2.0]], [1.0, 0.0])
    with pytest.raises(ValueError, match="temperature above 0, got 0"):
        apply_temperature([[0.0, 1.0]], 0)
    with pytest.raises(ValueError, match="finite logits"):
        apply_temperature([[0.0, np.nan]], 1)
