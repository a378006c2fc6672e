from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.errors import MedvisionError
from medvision.export.check import Comparison, Outputs, batches, compare
from medvision.inference import load_network
from medvision.inference.model_card import ModelCard


@pytest.fixture
def card(unet_checkpoint: Path) -> ModelCard:
    """Card of two classes with the threshold 0.4."""
    return load_network(unet_checkpoint)[1]


def images(count: int) -> list[NDArray[np.uint8]]:
    """Images of one pixel with the image number as value."""
    return [np.full((1, 1, 1), index, np.uint8) for index in range(count)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [[0], [0, 0]]),
        (2, [[0], [0, 0, 1]]),
        (6, [[0], [0, 0, 1, 2], [3, 4, 5]]),
    ],
)
def test_the_check_uses_a_batch_of_one_and_a_larger_one(
    count: int, expected: list[list[int]]
) -> None:
    assert [batch.flatten().tolist() for batch in batches(images(count))] == expected


def probability_of(batch: NDArray[np.uint8]) -> Outputs:
    """Fixed logit and probability, 0.39 for every image."""
    ones = np.ones((len(batch), 1), np.float32)
    return 2 * ones, 0.39 * ones


def test_images_on_the_other_side_of_the_threshold_are_counted(card: ModelCard) -> None:
    def other(batch: NDArray[np.uint8]) -> Outputs:
        logits, probability = probability_of(batch)
        return logits - 0.25, probability + np.where(len(batch) == 1, 0.02, 0).astype(np.float32)

    found = compare(probability_of, other, images(2), card, where="f")
    assert (found.logits, found.largest_logit) == (0.25, 2)
    assert found.probability == pytest.approx(0.02, abs=1e-6)
    assert (found.same, found.total) == (3, 4)  # of batches of one and of three
    assert found.same_percent == 75
    assert not found.holds


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (Comparison(logits=9e-4, largest_logit=10, probability=1e-5), True),
        (Comparison(logits=2e-3, largest_logit=10, probability=1e-5), False),
        (Comparison(logits=2e-4, largest_logit=1, probability=1e-5), False),
        (Comparison(logits=9e-4, largest_logit=10, probability=2e-3), False),
        (Comparison(logits=float("nan"), largest_logit=10), False),
    ],
)
def test_a_difference_within_a_share_of_the_largest_logit_is_accepted(
    found: Comparison, holds: bool
) -> None:
    assert found.holds is holds


def test_a_file_that_gives_nan_is_refused(card: ModelCard) -> None:
    def nan_for_the_first(batch: NDArray[np.uint8]) -> Outputs:
        logits, probability = probability_of(batch)
        return (logits * np.nan if len(batch) == 1 else logits), probability

    assert not compare(probability_of, nan_for_the_first, images(3), card, where="f").holds


def test_other_shapes_are_reported(card: ModelCard) -> None:
    def only_one(batch: NDArray[np.uint8]) -> Outputs:
        return probability_of(batch[:1])

    with pytest.raises(MedvisionError) as error:
        compare(probability_of, only_one, images(2), card, where="m.onnx")
    assert str(error.value) == (
        "expected logits (3, 1) of the exported network, got (1, 1) for a batch of 3 (m.onnx);"
        " no file was written; export to safetensors"
    )
    assert error.value.exit_code == 3


def test_a_network_with_logits_that_are_not_finite_is_refused(card: ModelCard) -> None:
    def broken(batch: NDArray[np.uint8]) -> Outputs:
        logits, probability = probability_of(batch)
        return logits * np.inf, probability

    with pytest.raises(MedvisionError, match="logits of the network are not finite"):
        compare(broken, broken, images(1), card, where="f")
