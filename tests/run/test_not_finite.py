"""A network whose output is not finite leaves no score and no prediction, with any command."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from medvision.cli import main as medvision
from medvision.run import main

pytestmark = pytest.mark.slow

SOURCE = """
import torch
from torch import nn

class Segmenter(nn.Module):
    def __init__(self, outputs=1):
        super().__init__()
        self.layers = nn.Conv2d(3, outputs, 3, padding=1)

    def forward(self, image):
        white = image.mean((1, 2, 3), keepdim=True) > 0.95
        return self.layers(image) + torch.where(white, torch.nan, 0.0)

class Classifier(Segmenter):
    def forward(self, image):
        return super().forward(image).mean((2, 3))
"""

WHITE = "case_03.png"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that output NaN for white images, in an empty working folder."""
    (tmp_path / "own_nan.py").write_text(SOURCE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/masks.yaml").write_text("_target_: own_nan.Segmenter\n")
    (tmp_path / "model/classes.yaml").write_text("_target_: own_nan.Classifier\noutputs: 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def command(monkeypatch: pytest.MonkeyPatch, *given: str) -> int:
    monkeypatch.setattr(sys, "argv", ["medvision", *given])
    with pytest.raises(SystemExit) as ended:
        medvision()
    return int(ended.value.code or 0)


def paint_white(path: Path) -> None:
    shape = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape
    cv2.imwrite(str(path), np.full(shape, 255, np.uint8))


def segmentation(make_folder: Callable[..., Path], _: Callable[..., Path]) -> tuple[Path, Path]:
    root = make_folder(12)
    parts = ["test"] * 4 + ["val"] * 3 + ["train"] * 5
    lines = [f"{part},images/case_{k:02d}.png" for k, part in enumerate(parts)]
    (root / "splits.csv").write_text("split,path\n" + "\n".join(lines) + "\n")
    return root, root / "images"


def classification(_: Callable[..., Path], make_folder: Callable[..., Path]) -> tuple[Path, Path]:
    parts = {"train": 6, "val": 4, "test": 2}
    names = ("a", "b", "c")
    counts = {f"{part}/{name}": n for part, n in parts.items() for name in names}
    root = make_folder(counts | {"test/c": 4})
    return root, root / "test"


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        pytest.param(
            segmentation,
            ("experiment=polyp_unet", "model=masks"),
            id="segmentation",
        ),
        pytest.param(
            classification,
            ("experiment=brain_mri_cnn", "model=classes"),
            id="classification",
        ),
    ],
)
def test_images_without_a_finite_output(
    folder: Callable[..., tuple[Path, Path]],
    options: tuple[str, ...],
    own: None,
    small: tuple[str, ...],
    make_folder: Callable[..., Path],
    make_class_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, images = folder(make_folder, make_class_folder)
    (white,) = images.rglob(WHITE)
    paint_white(white)
    tested = sorted(
        path for path in images.rglob("*.png") if images.name == "test" or path.name < "case_04"
    )
    words = f"the output of the network is not finite for 1 of {len(tested)} test images"

    data = (f"data.root={root}", "data.in_channels=3", "audit=skip")
    code = main([*small, *options, *data, f"--config-dir={tmp_path}"])
    assert code == 3
    (run,) = tmp_path.glob("runs/*/*")
    assert f"error: {words}" in capsys.readouterr().err
    assert_failed(run, words)
    rows = rows_of(run / "predictions_test.csv")
    assert len(rows) == len(tested)
    assert [Path(row["path"]).name for row in rows if not row["predicted"]] == [WHITE]

    assert command(monkeypatch, "evaluate", str(run), "--trust", "own_nan") == 3
    assert f"error: {words}" in capsys.readouterr().err
    assert_failed(run / "evaluation" / "test", words)

    again = shutil.copytree(run, tmp_path / "again")
    assert command(monkeypatch, "compare", str(run), str(again), "--trust", "own_nan") == 2
    assert "error: the scores of the run are undefined" in capsys.readouterr().err

    onnx = tmp_path / "model.onnx"
    export = ("export", str(run), "--format", "onnx", "--out", str(onnx), "--trust", "own_nan")
    assert command(monkeypatch, *export) == 3  # it is checked on test images
    assert "the logits of the network are not finite" in capsys.readouterr().err
    as_painted = white.read_bytes()
    white.write_bytes(white.with_name("case_00.png").read_bytes())
    assert command(monkeypatch, *export) == 0
    white.write_bytes(as_painted)
    for model, out in ((run, "of_run"), (onnx, "of_onnx")):
        given = ("predict", str(model), *map(str, tested), "--out", out, "--trust", "own_nan")
        assert command(monkeypatch, *given) == 1
        rows = rows_of(Path(out) / "predictions.csv")
        failed = [Path(row["path"]) for row in rows if row["error"]]
        assert failed == [white]
        assert all("not finite" in row["error"] for row in rows if row["error"])

    checkpoint = run / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.network.layers.bias"][:] = torch.nan
    torch.save(content, checkpoint)
    words = words.replace(" 1 of", f" {len(tested)} of")
    assert command(monkeypatch, "evaluate", str(run), "--trust", "own_nan") == 3
    assert f"error: {words}" in capsys.readouterr().err
    assert_failed(run / "evaluation" / "test", words)
    given = ("predict", str(run), *map(str, tested), "--out", "none", "--trust", "own_nan")
    assert command(monkeypatch, *given) == 1
    assert all(row["error"] for row in rows_of(Path("none/predictions.csv")))
    assert not list(Path("none").rglob("*.png"))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def assert_failed(run: Path, words: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["warnings"][0].startswith(words)
    assert sum("not finite" in warning for warning in summary["warnings"]) == 1
    scores = {n: v for n, v in summary["metrics"].items() if n.startswith("test/")}
    assert scores
    assert not any(value for value in scores.values())
    assert words in (run / "report.html").read_text()
