"""Model card in Markdown."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvision.files import write_json
from medvision.reports.published_card import MARK, published_card
from medvision.reports.run_files import RunFiles

FIXED: dict[str, Any] = {
    "title": "trial",
    "task": "segmentation",
    "architecture": "UNet",
    "num_parameters": 1234,
    "image_size": 64,
    "class_names": ("background", "polyp"),
    "file": "unet.onnx",
}
SUMMARY: dict[str, Any] = {
    "experiment": "trial",
    "seed": 0,
    "task": "segmentation",
    "dataset": {"name": "set", "synthetic": False, "num_images": {"train": 8, "val": 2, "test": 3}},
    "epochs": 1,
    "precision": "32-true",
    "audit": {"mode": "warn", "leaks": ["1 of 3 test images is in train"]},
    "warnings": ["LEAK: 1 of 3 test images is in train", "the masks of 2 images are empty"],
    "metrics": {"test/dice": 0.8126, "test/dice_ci95": [0.7, 0.9], "val/dice": 0.9},
}


def card_of(folder: Path, summary: dict[str, Any], **values: Any) -> str:
    folder.mkdir(exist_ok=True)
    write_json(folder / "summary.json", summary)
    return published_card(**{**FIXED, **values}, run=RunFiles.read(folder))


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def test_scores_leaks_and_limits_are_those_of_the_run(tmp_path: Path) -> None:
    text = card_of(tmp_path / "run", SUMMARY)
    metadata = yaml.safe_load(text.split("---")[1])
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "dice", "name": "test Dice", "value": 0.8126}
    assert result["dataset"]["split"] == "test"
    assert MARK in text
    found = sections(text)
    assert "| Dice | 0.813 | 0.700 to 0.900 |" in found["Scores"]
    assert "8 train, 2 val, 3 test images" in found["Training data"]
    assert "- 1 of 3 test images is in train" in found["Training data"]
    assert "1 of 3" not in found["Limits"]
    assert "the masks of 2 images are empty" in found["Limits"]
    assert "medvision predict unet.onnx" in found["Use"]


def test_a_remark_that_is_already_a_warning_of_the_run_is_listed_once(tmp_path: Path) -> None:
    few = "only 3 test images: the 95 % interval of Dice is 0.700 to 0.900"
    assert sections(card_of(tmp_path / "run", SUMMARY))["Limits"].count(few) == 1
    again = {**SUMMARY, "warnings": [*SUMMARY["warnings"], few]}
    assert sections(card_of(tmp_path / "again", again))["Limits"].count(few) == 1


def test_sealed_scores_are_those_of_validation(tmp_path: Path) -> None:
    sealed = {**SUMMARY, "metrics": {"val/dice": 0.9}, "sealed": True}
    scores = sections(card_of(tmp_path / "run", sealed))["Scores"]
    assert "score, validation images" in scores
    assert "sealed" in scores


@pytest.mark.parametrize("audit", [{"mode": "warn", "leaks": []}, {"mode": "skip"}, None])
def test_data_without_leak_and_data_that_were_not_audited_differ(
    tmp_path: Path, audit: dict[str, Any] | None
) -> None:
    clean = {**SUMMARY, "warnings": [], "audit": audit}
    text = card_of(tmp_path / "run", clean)
    audited = audit is not None and audit["mode"] == "warn"
    assert ("No leak was found" in text) is audited
    assert ("The data were not audited" in text) is not audited


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    text = card_of(tmp_path / "run", SUMMARY, class_names=("a", "<script>\n# b"))
    assert r"\<script\> \# b" in text
    assert "<script>" not in text.replace(r"\<", "")


def test_a_run_of_an_earlier_version_has_a_card(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "fixtures" / "run_before" / "finished"
    shutil.copytree(old, tmp_path / "run")
    run = RunFiles.read(tmp_path / "run")
    assert "| value | 95 % interval |" in published_card(**{**FIXED, "task": run.task}, run=run)
