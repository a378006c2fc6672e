"""Planning, scores, resuming and table of benchmarks/quality.py; nothing is trained."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quality
from PIL import Image
from sklearn.metrics import roc_auc_score

FIRST = {"epochs": 1, "seconds": 50.0, "epoch_s": 40.0, "share": 0.5}


@pytest.mark.parametrize(
    ("minutes", "clock", "epochs"),
    [
        (4, "wall", 6),  # 10 s to start, then 230 s of 40 s each: 5.75
        (0.5, "wall", 1),
        (0.01, "wall", 1),  # not before the first epoch
        (4, "cpu", 12),  # half of the core: 480 s
    ],
)
def test_epochs_end_nearest_to_the_planned_minutes(minutes: float, clock: str, epochs: int) -> None:
    assert quality.planned_epochs(FIRST, minutes, clock=clock) == epochs


def _write(path: Path, mask: list[list[int]]) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.array(mask, np.uint8)).save(path)


def test_dice_is_the_mean_over_images_and_grey_edges_are_background(tmp_path: Path) -> None:
    _write(tmp_path / "masks/a.png", [[255, 255], [0, 100]])
    _write(tmp_path / "masks/b.png", [[0, 0], [0, 0]])
    _write(tmp_path / "found/a.png", [[255, 0], [255, 0]])
    _write(tmp_path / "found/b.png", [[0, 0], [0, 0]])
    rows = [{"path": f"images/{n}.jpg", "target": f"masks/{n}.png"} for n in "ab"]

    scores = quality.segmentation_scores(tmp_path, rows, tmp_path / "found")

    assert scores == {"dice": pytest.approx((0.5 + 1) / 2)}


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "masks/a.png", [[255, 255], [0, 0]])
    _write(tmp_path / "found/a.png", [[255]])

    with pytest.raises(ValueError, match=r"expected a mask of \(2, 2\) for images/a.jpg"):
        quality.segmentation_scores(
            tmp_path, [{"path": "images/a.jpg", "target": "masks/a.png"}], tmp_path / "found"
        )


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c"]])
def test_auroc_and_accuracy_are_those_of_scikit_learn(classes: list[str]) -> None:
    rng = np.random.default_rng(0)
    targets = rng.permutation(np.resize(classes, 30))
    values = rng.dirichlet(np.ones(len(classes)), 30)
    rows = [{"path": str(n), "target": target} for n, target in enumerate(targets)]
    predicted = {
        str(n): {
            "predicted": classes[int(value.argmax())],
            **{f"probability/{c}": str(p) for c, p in zip(classes, value, strict=True)},
        }
        for n, value in enumerate(values)
    }

    scores = quality.classification_scores(rows, predicted)

    given = values[:, 1] if len(classes) == 2 else values
    assert scores["auroc"] == pytest.approx(roc_auc_score(targets, given, multi_class="ovr"))
    assert scores["accuracy"] == np.mean(np.array(classes)[values.argmax(1)] == targets)


def _point(candidate: str, seed: int, minutes: float | None, dice: float) -> dict[str, Any]:
    scores = {"val": {"dice": dice + 0.01}, "test": {"dice": dice}}
    key = {"task": "polyps", "candidate": candidate, "seed": seed, "minutes": minutes, "cores": 1}
    taken = {"epochs": 2, "seconds": 60.0 * (minutes or 1) + seed, "epoch_s": 20.0, "share": 0.9}
    return {**key, **taken, "scores": scores}


def test_a_point_of_the_file_is_not_trained_again(tmp_path: Path) -> None:
    points = tmp_path / "points.jsonl"
    known = _point("smp", 1, 4.0, 0.9)
    points.write_text(json.dumps(known) + "\n")
    place = quality.Place.__new__(quality.Place)
    place.given = Namespace(task="polyps", cores=[1], points=points)
    place.scratch = tmp_path / "scratch"  # does not exist: training would fail

    assert place.measured("smp", 1, 4.0, 7) == known
    with pytest.raises(FileNotFoundError):
        place.measured("smp", 2, 4.0, 7)


def test_table_shows_median_and_range_of_the_seeds_in_order_of_time() -> None:
    points = [_point("smp", seed, 12.0, dice) for seed, dice in enumerate([0.9, 0.8, 0.86])]
    points += [_point("smp", 0, None, 0.5), _point("medvision", 0, None, 0.91)]
    task = quality.TASKS["polyps"]

    lines = quality.table(quality.groups_of(points, task.candidates), task)

    assert [line.split("|")[1:8] for line in lines[2:]] == [
        [" medvision ", " as shipped ", " 2 ", " 0 ", " 1 ", " 1.0 ", " 0.910 "],
        [" Lightning and smp, U-Net ", " one epoch ", " 2 ", " 0 ", " 1 ", " 1.0 ", " 0.500 "],
        [
            " Lightning and smp, U-Net ",
            " 12 ",
            " 2 ",
            " 0, 1, 2 ",
            " 1 ",
            " 12.0 (12.0-12.0) ",
            " 0.860 (0.800-0.900) ",
        ],
    ]
