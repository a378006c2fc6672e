"""A real data set, if it is available beside the checkout."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

KVASIR = Path(__file__).parents[3] / "shared" / "data" / "kvasir_seg"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not KVASIR.is_dir(), reason="Kvasir-SEG is not here"),
]


def test_the_given_split_of_kvasir_is_used_and_its_scores_match_the_files(
    train: Callable[..., Path],
) -> None:
    run = train(
        "experiment=polyp_unet",
        f"data.root={KVASIR}",
        "data.image_size=64",
        "model.base_channels=2",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=2",
        "optimizer.lr=1e-2",
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["dataset"]["num_images"] == {"train": 800, "val": 100, "test": 100}
    assert summary["dataset"]["synthetic"] is False
    with (KVASIR / "splits.csv").open(newline="") as file:
        given = {row["path"]: row["split"] for row in csv.DictReader(file)}
    with (run / "splits.csv").open(newline="") as file:
        used = {row["path"]: row["split"] for row in csv.DictReader(file)}
    assert used == given

    dice = []
    with (run / "predictions_test.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            mask = cv2.imread(str(KVASIR / row["target"]), cv2.IMREAD_GRAYSCALE) > 127
            small = cv2.resize(
                mask.astype(np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST_EXACT
            )
            predicted = cv2.imread(str(run / row["predicted"]), cv2.IMREAD_UNCHANGED) >= 128
            overlap = (predicted & (small > 0)).sum()
            dice.append((2 * overlap + 1e-7) / (predicted.sum() + small.sum() + 1e-7))
    assert len(dice) == 100
    assert summary["metrics"]["test/dice"] == pytest.approx(np.mean(dice), abs=1e-6)
