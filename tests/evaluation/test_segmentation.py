"""Evaluation of masks, without a network."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from medvision.data import SegmentationData
from medvision.data.samples import Sample
from medvision.evaluation import SegmentationEvaluation

SIZE_PX = 10


def masks(lesions: Sequence[bool]) -> torch.Tensor:
    """A square lesion of 3 px, or none, for each image."""
    drawn = torch.zeros(len(lesions), SIZE_PX, SIZE_PX, dtype=torch.uint8)
    drawn[torch.tensor(lesions), 2:5, 2:5] = 1
    return drawn


class Masks:
    """Minimal prepared data, whose files have the size of the network's input."""

    def __init__(self, lesions: Sequence[bool]) -> None:
        self.class_names, self.source = ["background", "polyp"], self
        self.masks = {f"{k}.png": mask.numpy() for k, mask in enumerate(masks(lesions))}
        self.tables = {"test": [Sample(path=name, target="") for name in self.masks]}

    def read(self, sample: Sample) -> tuple[None, np.ndarray]:
        return None, self.masks[sample.path]

    def groups_of(self, rows: object) -> None:
        return None


def measure(folder: Path, *, lesions: Sequence[bool], found: Sequence[bool]) -> tuple[Any, Any]:
    """Scores and notes of an evaluation that finds each lesion exactly, or nothing."""
    data = cast(SegmentationData, Masks(lesions))
    evaluation = SegmentationEvaluation(folder=folder, data=data, surface=True)
    watcher, none = evaluation.watch("test"), cast(Any, None)
    batch: Any = {"target": masks(lesions), "index": torch.arange(len(lesions))}
    watcher.on_test_batch_end(none, none, 12.0 * masks(found)[:, None] - 6, batch, 0)
    watcher.roc = (np.array([0.0, 1.0]),) * 3
    return evaluation.scores("test", {"test/auroc": 0.5}), evaluation.notes


def test_missed_lesions_are_left_out_of_hd95_with_a_note_and_counted_by_the_penalised_one(
    tmp_path: Path,
) -> None:
    scores, notes = measure(
        tmp_path, lesions=[True, True, True, False], found=[True, False, False, False]
    )
    assert scores["test/hd95_px"] == 0
    assert scores["test/hd95_px_undefined"] == 3  # the image without a lesion has no distance
    diagonal_px = math.hypot(SIZE_PX, SIZE_PX)
    assert scores["test/hd95_px_penalised"] == pytest.approx(2 * diagonal_px / 3)
    assert [note for note in notes if "HD95" in note and "interval" not in note] == [
        "HD95 leaves out 2 of 4 test images, in which the lesion was missed: hd95_px_penalised"
        " counts each as the diagonal of the image"
    ]


def test_without_a_missed_lesion_hd95_has_no_note(tmp_path: Path) -> None:
    scores, notes = measure(tmp_path, lesions=[True, True, False], found=[True, True, False])
    assert scores["test/hd95_px"] == scores["test/hd95_px_penalised"] == 0
    assert not [note for note in notes if "leaves out" in note]


def test_a_class_that_is_never_predicted_is_named_once(tmp_path: Path) -> None:
    _, notes = measure(tmp_path, lesions=[True, True, False], found=[False] * 3)
    assert [note for note in notes if "never" in note] == [
        "polyp was never predicted on test, although 2 images contain it"
    ]
