"""The table of scores has a row for every logged value."""

import subprocess
import sys

import pytest
import torch

from medvision.metrics import ClassificationScores, SegmentationScores
from medvision.scores import (
    CLASSIFICATION,
    LOSS,
    SEGMENTATION,
    mode_of,
    names_at,
    other_scores,
    score_named,
    scores_at,
    scores_of,
)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]])
def test_every_score_of_an_epoch_has_a_row(names: list[str]) -> None:
    pixels, images = SegmentationScores(class_names=names), ClassificationScores(class_names=names)
    channels = 1 if len(names) == 2 else len(names)
    pixels.update(torch.zeros(2, channels, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8))
    images.update(torch.zeros(2, channels), torch.zeros(2, dtype=torch.uint8))
    assert other_scores((f"val/{name}" for name in pixels.compute()), "segmentation") == ()
    assert other_scores((f"val/{name}" for name in images.compute()), "classification") == ()


@pytest.mark.parametrize("rows", [SEGMENTATION, CLASSIFICATION])
def test_rows_are_unique_and_complete(rows: tuple) -> None:
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.definition.endswith("."), row.name
        assert row.title, row.name


def test_a_task_without_a_table_has_its_loss_and_other_scores() -> None:
    assert scores_of("detection") == (LOSS,)
    logged = ["val/loss", "val/map", "val/map_ci95", "train/map", "epoch", "lr"]
    assert [score.name for score in other_scores(logged, "detection")] == ["map"]


def test_a_score_is_found_with_stage_and_class() -> None:
    found = score_named("val/recall/glioma", "classification")
    assert found is not None
    assert found.title == "sensitivity (recall)"
    assert score_named("val/recall/glioma", "detection") is None
    assert score_named("val/my_score") is None


def test_the_direction_is_that_of_the_row() -> None:
    assert mode_of("val/loss") == mode_of("val/brier") == mode_of("test/hd95_px") == "min"
    assert mode_of("val/dice") == mode_of("val/my_score") == "max"


def test_the_loss_leads_the_log_and_each_name_occurs_once() -> None:
    assert names_at("log", "segmentation") == ("loss", "dice", "iou", "accuracy", "auroc")
    assert names_at("log", "classification") == ("loss", "accuracy", "balanced_accuracy", "auroc")
    assert names_at("headline") == ("accuracy", "auroc", "dice", "iou")
    assert len(set(names_at("terminal"))) == len(scores_at("terminal"))


def test_values_are_formatted_by_their_unit() -> None:
    hd95, dice = (score_named(name, "segmentation") for name in ("hd95_px", "dice"))
    assert hd95 is not None
    assert dice is not None
    assert (hd95.text(3.14159), hd95.heading) == ("3.1", "HD95, px")
    assert (dice.text(-0.0001), dice.text(0.01, sign=True)) == ("0.000", "+0.010")
    assert dice.text(float("nan")) == dice.text(None) == "undefined"


def test_the_table_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'matplotlib', 'hydra'} & set(sys.modules)"
    code = f"import sys, medvision.scores; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
