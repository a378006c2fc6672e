import json
from typing import Any

import pytest

from medvision.errors import MedvisionError
from medvision.inference.model_card import ModelCard

VALUES: dict[str, Any] = {
    "format": 1,
    "task": "segmentation",
    "model": {"name": "medvision.models.UNet", "arguments": {"in_channels": 3, "num_classes": 2}},
    "num_parameters": 12,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "class_names": ["background", "polyp"],
    "image_size": 64,
    "in_channels": 3,
    "threshold": 0.5,
}


def test_missing_values_of_older_checkpoints_have_defaults() -> None:
    card = ModelCard.from_dict(VALUES, where="a.ckpt")
    assert (card.architecture, card.precision, card.eval_transforms) == ("UNet", "auto", {})
    assert card.value_range is None
    assert card.num_classes == 2


def test_a_card_survives_json() -> None:
    full = {
        **VALUES,
        "value_range": [0, 4095],
        "eval_transforms": {"CLAHE": {"p": 1.0}},
        "precision": "bf16-mixed",
        "experiment": "e",
        "dataset": "d",
        "synthetic": True,
    }
    card = ModelCard.from_dict(full, where="a.ckpt")
    again = ModelCard.from_dict(json.loads(json.dumps(card.to_dict())), where="a.json")
    assert again == card
    assert again.value_range == (0, 4095)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("task", "detection", id="task"),
        pytest.param("class_names", ["polyp"], id="one-class"),
        pytest.param("class_names", ["a", "a"], id="repeated"),
        pytest.param("class_names", "ab", id="text"),
        pytest.param("image_size", 10**9, id="huge"),
        pytest.param("image_size", True, id="bool"),
        pytest.param("in_channels", 2, id="channels"),
        pytest.param("mean", [0.5], id="mean"),
        pytest.param("std", [0.5, 0.0, 0.5], id="zero-std"),
        pytest.param("threshold", float("nan"), id="nan"),
        pytest.param("threshold", 1.5, id="above-1"),
        pytest.param("value_range", [5, 5], id="empty-range"),
        pytest.param("eval_transforms", ["CLAHE"], id="transforms"),
        pytest.param("model", "medvision.models.UNet", id="model"),
    ],
)
def test_an_impossible_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(MedvisionError, match=rf"{key} in the model card: .*\(a.ckpt\)"):
        ModelCard.from_dict({**VALUES, key: value}, where="a.ckpt")


@pytest.mark.parametrize("values", [None, {}, {"state_dict": {}}, ["format"]])
def test_the_checkpoint_of_another_program_is_refused(values: Any) -> None:
    with pytest.raises(MedvisionError, match="expected a medvision model"):
        ModelCard.from_dict(values, where="a.ckpt")


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(MedvisionError, match="expected a model of format 1, got 2"):
        ModelCard.from_dict({**VALUES, "format": 2}, where="a.ckpt")
