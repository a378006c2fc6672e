"""A part of a split, and outputs that are not finite, are never reported as the whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medvision.errors import MedvisionError
from medvision.run.evaluation.evaluate import _lasting
from medvision.run.training.results import (
    check_finite,
    expected_parts,
    first_notes,
    images_behind,
)
from medvision.scores import changed_name, changed_since

DATA: Any = SimpleNamespace(
    tables={"train": [0] * 50, "val": [0] * 10, "test": [0] * 11}, batch_size=4
)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, []),
        ({"limit_test_batches": 1}, ["only 4 of 11 test images"]),
        ({"limit_test_batches": 3}, []),
        ({"limit_test_batches": 0.5}, ["only 4 of 11 test images"]),
        (
            {"limit_val_batches": 2, "limit_test_batches": 2},
            ["only 8 of 10 val images", "only 8 of 11 test images"],
        ),
        ({"limit_train_batches": 1}, []),
    ],
)
def test_a_limit_below_the_whole_is_noted(limits: dict[str, Any], expected: list[str]) -> None:
    notes = expected_parts(limits, DATA, ("val", "test"))
    assert [note.split(" are scored")[0] for note in notes] == expected
    assert all("trainer.limit_" in note for note in notes)


def test_counts_come_from_the_scored_rows() -> None:
    evaluation: Any = SimpleNamespace(
        scored={"val": {"num_images": 10}, "test": {"num_images": 4}}, not_finite={}
    )
    assert first_notes(evaluation, DATA) == expected_parts(
        {"limit_test_batches": 1}, DATA, ["test"]
    )
    assert images_behind(evaluation) == {"scored": evaluation.scored}
    check_finite({"scored": evaluation.scored}, DATA)  # nothing to report


def test_outputs_that_are_not_finite_are_an_error_of_their_own(tmp_path: Any) -> None:
    evaluation: Any = SimpleNamespace(scored={"test": {"num_images": 11}}, not_finite={"test": 2})
    assert first_notes(evaluation, DATA) == [
        "the output of the network is not finite for 2 of 11 test images: all scores on test are"
        " undefined"
    ]
    with pytest.raises(MedvisionError, match="not finite for 2 of 11 test images") as raised:
        check_finite(images_behind(evaluation), tmp_path)
    assert raised.value.exit_code == 3


def test_notes_on_scores_that_are_measured_again_are_not_kept() -> None:
    evaluation: Any = SimpleNamespace(
        scored={"val": {"num_images": 4}, "test": {"num_images": 4}}, not_finite={"test": 1}
    )
    notes = first_notes(evaluation, DATA)
    lasting = ["the data were not audited: audit=skip", "training has not converged"]
    assert len(notes) == 3
    assert _lasting([*notes, *lasting], "test", opened=False) == [notes[1], *lasting]
    few = "only 11 test images: the 95 % interval of Dice is 0.1 to 0.9"
    assert _lasting([few, *lasting], "test", opened=False) == lasting
    assert _lasting([*notes, *lasting], "val", opened=False) == [notes[0], notes[2], *lasting]


def test_changed_definitions_are_those_after_the_version_of_a_run() -> None:
    assert changed_since(4, "segmentation", num_classes=2) == {}
    assert set(changed_since(3, "segmentation", num_classes=2)) == {"intervals"}
    ranked = {"auroc", "average_precision", "intervals"}
    assert set(changed_since(3, "classification", num_classes=2)) == ranked
    two = changed_since(2, "segmentation", num_classes=2)
    assert set(two) == {"precision", "auroc", "intervals"}
    assert set(changed_since(2, "segmentation", num_classes=4)) >= {"dice", "iou", *two}
    assert changed_name("test/auroc", two) == "auroc"
    assert changed_name("val/precision/liver", two) == "precision"
    assert changed_name("test/dice_ci95", two) == "intervals"
    assert changed_name("test/dice", two) is None


@pytest.mark.slow
def test_patients_subgroups_and_a_part_of_the_test_images(
    make_folder: Callable[..., Path], train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(24)
    parts = ["train"] * 8 + ["val"] * 4 + ["test"] * 12
    lines = [
        f"{part},images/case_{k:02d}.png,patient{k // 2},{'north' if k % 4 < 2 else 'south'}"
        for k, part in enumerate(parts)
    ]
    (root / "splits.csv").write_text("split,path,group,site\n" + "\n".join(lines) + "\n")
    run = train(
        "experiment=polyp_unet",
        "model.base_channels=4",
        f"data.root={root}",
        "data.subgroups=[site]",
        "trainer.limit_test_batches=2",
        "audit=skip",
    )
    note = "only 8 of 12 test images are scored (trainer.limit_test_batches)"
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in printed if line.startswith("note: ")).startswith(f"note: {note}")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["warnings"][0].startswith(note)
    assert summary["scored"]["test"]["num_images"] == 8
    page = (run / "report.html").read_text()
    warnings = page[page.index('<section id="warnings"') :]
    assert note in warnings
    assert "not audited (audit=skip)" in page

    rows = [*csv.DictReader((run / "predictions_test.csv").read_text().splitlines())]
    dice = np.array([float(row["dice"]) for row in rows])
    assert summary["per_patient"]["num_groups"] == 4
    assert summary["per_patient"]["dice"] == pytest.approx(dice.reshape(4, 2).mean(1).mean())
    (site,) = summary["subgroups"].values()
    assert [(g["name"], g["num_images"]) for g in site["groups"]] == [("north", 4), ("south", 4)]
    north, south = dice[[0, 1, 4, 5]].mean(), dice[[2, 3, 6, 7]].mean()
    assert [group["dice"] for group in site["groups"]] == pytest.approx([north, south])
    assert site["largest_gap"]["dice"]["gap"] == pytest.approx(abs(north - south))
    for section in ("own-subgroups", "own-by-patient"):
        assert f'<section id="{section}"' in page
