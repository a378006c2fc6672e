"""The TPU code path, compiled for this CPU: passing runs, and the errors of synthetic stalls.

torch-xla takes seconds to import and a minute to compile: a program for several runs each.
"""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.run import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SIZES = ("data.image_size=32", "model.base_channels=2", "data.batch_size=4", "logger=csv")
POLYPS = (
    "experiment=polyp_unet",
    *SIZES,
    "data.num_images=26",
    "data.val_fraction=0.2",  # 6 images, and 3 to test: the last batch is padded
    "data.test_fraction=0.2",
    "data.num_workers=0",
    "trainer.max_epochs=2",
    "optimizer=adamw",  # 1 - lr * weight_decay rounds to 1 in the second epoch
    "optimizer.lr=1e-5",
    "scheduler=cosine",
)

PROGRAM = '''
"""Runs of one process: compiled graphs are kept, so that later ones are quick."""

import contextlib, io, json, sys
from pathlib import Path
from unittest import mock

import torch

from medvision.data import SegmentationData
from medvision.metrics import SegmentationScores
from medvision.run import main
from medvision.run.training import experiment as job
from medvision.tasks import SegmentationTask

POLYPS, FOLDER = json.loads(sys.argv[1]), sys.argv[2]
reported = {}


def run(name, *overrides):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main([*POLYPS, "trainer=tpu_rehearsal", f"run_dir={name}", *overrides])
    reported[name] = {"code": code, "out": out.getvalue(), "errors": errors.getvalue()}
    Path("reported.json").write_text(json.dumps(reported))


train, update, fit = SegmentationTask.training_step, SegmentationScores.update, job.fit


def item(self, batch, batch_idx):
    self.seen = batch["image"].float().mean().item()  # planted: item
    return train(self, batch, batch_idx)


def growing(self, batch, batch_idx):
    rows = batch["image"][:, :, : 1 + self.current_epoch]  # planted: growing
    return train(self, batch, batch_idx) + 0 * rows.float().mean()


def dynamic(self, logits, target):
    update(self, logits, target)
    if not torch.is_grad_enabled():  # in validation
        self.found = torch.unique(target.clamp(max=1))  # planted: dynamic


def deleting(cfg, plan, task, data, **options):
    gone = Path(FOLDER, data.tables["train"][-1].path)
    picture = gone.read_bytes()
    gone.unlink()
    try:
        return fit(cfg, plan, task, data, **options)
    finally:
        gone.write_bytes(picture)


run("clean")
never = property(lambda self: False, lambda self, value: None)
with mock.patch.object(SegmentationData, "fixed_shapes", never, create=True):
    run("ragged")
with mock.patch.object(SegmentationTask, "training_step", item):
    run("item")
with mock.patch.object(SegmentationScores, "update", dynamic):
    run("dynamic")
with mock.patch.object(job, "fit", deleting):
    for workers in (0, 1):
        run(f"deleted_{workers}", f"data.root={FOLDER}", f"data.num_workers={workers}")
with mock.patch.object(SegmentationTask, "training_step", growing):
    run("growing")
'''


@dataclass(frozen=True)
class RunResult:
    """Result of a run."""

    code: int
    out: str
    errors: str
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunResult]:
    """Results of the runs of ``PROGRAM``, by name."""
    folder = tmp_path_factory.mktemp("rehearsals")
    (folder / "planted.py").write_text(PROGRAM)
    command = [sys.executable, "planted.py", json.dumps(POLYPS), str(make_folder(folder))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, timeout=900
    )
    found = json.loads((folder / "reported.json").read_text())

    def of(name: str) -> RunResult:
        assert name in found, done.stderr
        return RunResult(**found[name], folder=folder / name)

    return of


def make_folder(parent: Path) -> Path:
    """Write 24 pairs with a disc each, with a given split."""
    root = parent / "pairs"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    for index in range(24):
        mask = np.zeros((32, 32), np.uint8)
        center = tuple(int(v) for v in rng.integers(10, 22, 2))
        cv2.circle(mask, center, int(rng.integers(4, 9)), 255, -1)
        image = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        image[mask > 0] += 120
        cv2.imwrite(str(root / "images" / f"case_{index:02d}.png"), image)
        cv2.imwrite(str(root / "masks" / f"case_{index:02d}.png"), mask)
    return root


def line_of(fault: str) -> int:
    """Number of the line with the synthetic fault."""
    lines = PROGRAM.splitlines()
    (number,) = (n for n, line in enumerate(lines, start=1) if f"# planted: {fault}" in line)
    return number


def assert_test_images_are_measured_once(run: Path) -> None:
    with (run / "predictions_test.csv").open(newline="") as file:
        measured = [row["path"] for row in csv.DictReader(file)]
    with (run / "splits.csv").open(newline="") as file:
        expected = [row["path"] for row in csv.DictReader(file) if row["split"] == "test"]
    assert sorted(measured) == sorted(expected)
    assert len(expected) % 4 != 0, "no batch was padded"


def assert_caught(run: RunResult, what: str, where: str) -> None:
    assert run.code == 1, run.errors
    assert run.errors.startswith(f"error: {what}")
    assert run.errors.count("\n") == 1
    assert f" ({where}); " in run.errors
    assert run.summary["status"] == "failed"
    assert run.summary["xla"].keys() == {"compilations_per_epoch", "fallbacks"}


def test_the_unet_passes(reported: Callable[[str], RunResult]) -> None:
    run = reported("clean")
    assert run.code == 0, run.errors
    assert run.errors == ""
    first, *later = run.summary["xla"]["compilations_per_epoch"]
    assert first > 0
    assert later == [0]
    assert run.summary["xla"]["fallbacks"] == {}
    assert run.summary["status"] == "finished"
    assert run.summary["precision"] == "bf16-mixed"
    assert run.summary["device"] == "tpu_rehearsal"
    assert f"xla: epoch 1 compiled {first} graphs; fell back: nothing" in run.out
    assert "xla: epoch 2 compiled 0 graphs; fell back: nothing" in run.out
    assert_test_images_are_measured_once(run.folder)


def test_an_unpadded_last_batch_is_caught(reported: Callable[[str], RunResult]) -> None:
    what = "val batches changed shape from (4, 3, 32, 32) to (2, 3, 32, 32)"
    assert_caught(reported("ragged"), what, "data")


def test_a_step_that_reads_a_value_is_caught(reported: Callable[[str], RunResult]) -> None:
    where = f"item (planted.py:{line_of('item')})"
    assert_caught(reported("item"), "training step 1 reads a value from the device", where)


def test_a_metric_of_dynamic_shape_is_caught(reported: Callable[[str], RunResult]) -> None:
    run = reported("dynamic")
    assert_caught(run, "XLA lacks aten::_unique2", f"dynamic (planted.py:{line_of('dynamic')})")
    assert run.summary["xla"]["fallbacks"]["aten::_unique2"] >= 1


def test_a_shape_that_grows_is_caught(reported: Callable[[str], RunResult]) -> None:
    run = reported("growing")
    what = "epoch 2 compiled 1 graph again, first in step 1: the computation differs"
    assert_caught(run, what, "task, model, loss or metrics")  # torch-xla names no line of a step
    assert run.summary["xla"]["compilations_per_epoch"][1:] == [1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_file_ends_the_epoch_with_its_name(
    reported: Callable[[str], RunResult], workers: int
) -> None:
    run = reported(f"deleted_{workers}")
    assert run.code == 2, run.errors
    assert run.errors.startswith("error: ")
    assert re.search(r"case_\d\d\.png", run.errors)
    assert run.errors.count("\n") == 1
    assert run.summary["status"] == "failed"
    assert not (run.folder / "metrics.csv").exists()


def run_program(folder: Path, *overrides: str) -> Path:
    command = [sys.executable, str(ROOT / "train.py"), *overrides, "run_dir=run"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_the_chest_cnn_passes(tmp_path: Path) -> None:
    small = (*SIZES, "data.num_images=24", "trainer.max_epochs=2", "data.num_workers=1")
    run = run_program(tmp_path, "experiment=chest_xray_cnn", *small, "trainer=tpu_rehearsal")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["xla"]["fallbacks"] == {}
    first, *later = summary["xla"]["compilations_per_epoch"]
    assert first > 0
    assert later == [0]
    assert_test_images_are_measured_once(run)


def test_every_epoch_has_the_order_and_the_augmentation_of_a_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = (
        *POLYPS,
        "trainer.precision=32",
        "model.batch_norm=false",
        "trainer.max_epochs=4",
        "trainer.limit_train_batches=1",
        "+data.train_transforms.HorizontalFlip.p=0.5",
    )
    on_xla = run_program(tmp_path, *plain, "trainer=tpu_rehearsal")
    monkeypatch.chdir(tmp_path)
    assert main([*plain, "trainer=cpu", "run_dir=on_cpu"]) == 0
    losses = [read_losses(run) for run in (on_xla, tmp_path / "on_cpu")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len(set(losses[1])) == 4


def read_losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]
