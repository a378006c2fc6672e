import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.inference import load_model, predict_files


def test_predicted_masks_have_the_dice_that_the_run_states(
    train: Callable[..., Path], make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder(40, size_px=(53, 71))
    run = train(
        "experiment=polyp_unet",
        "model.base_channels=4",
        f"data.root={root}",
        "data.test_fraction=0.4",
        "optimizer.lr=3e-3",
        "trainer.max_epochs=3",
    )
    with (run / "predictions_test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    images = [root / row["path"] for row in rows]
    predict_files(load_model(run), images, out=tmp_path / "out", batch_size=3)
    for row in rows:
        mask = cv2.imread(str(tmp_path / "out/masks" / Path(row["path"]).name), -1)
        true = cv2.imread(str(root / row["target"]), -1)
        assert mask is not None
        assert true is not None
        overlap = np.count_nonzero((mask > 0) & (true > 0))
        total = np.count_nonzero(mask) + np.count_nonzero(true)
        dice = (2 * overlap + 1e-7) / (total + 1e-7)
        assert dice == pytest.approx(float(row["dice_original"]), abs=1e-6)
    assert max(float(row["dice_original"]) for row in rows) > 0


def test_the_report_of_a_run_shows_its_score_and_its_images(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "For research use only" in page
    assert "drawn by code" in page or "synthetic" in page.lower()
    assert page.count("data:image/jpeg") == 7  # every test image: there are fewer than twelve
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_report_of_classes_has_their_sections(finished_chest: Path) -> None:
    page = (finished_chest / "report.html").read_text()
    for part in ("PNEUMONIA", "ROC", "Calibration", "Confusion", "Thresholds", "true NORMAL"):
        assert part in page, part
    assert "lesion size" not in page
