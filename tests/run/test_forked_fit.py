"""A fit in forked processes, as on all cores of a TPU; here two processes on the CPU."""

import csv
import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer

from medvision.errors import MedvisionError
from medvision.run import main

ROOT = Path(__file__).parents[2]

PLAIN = (
    "experiment=polyp_unet",
    "trainer=cpu",
    "trainer.precision=32",
    "model.base_channels=2",
    "model.batch_norm=false",
    "data.image_size=32",
    "data.num_images=40",
    "data.val_fraction=0.2",
    "data.num_workers=0",
    "trainer.max_epochs=2",
    "logger=csv",
)

FORKED = ("data.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp_fork")
"""Two processes with batch 4 compute what one with batch 8 does."""


def run_program(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=600,
    )


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str]) -> dict[str, float | None]:
    return {name: float(value) if value else None for name, value in row.items()}


@pytest.mark.slow
def test_a_run_in_copies_of_the_process_ends_as_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*PLAIN, "data.batch_size=8", "run_dir=alone"]) == 0
    done = run_program(tmp_path, *PLAIN, *FORKED, "run_dir=forked")
    assert done.returncode == 0, done.stderr
    alone, forked = tmp_path / "alone", tmp_path / "forked"
    assert {path.name for path in forked.iterdir()} == {path.name for path in alone.iterdir()}
    assert done.stdout.count("SYNTHETIC DATA") == 1
    assert done.stdout.count("epoch   2/2") == 1

    summary, expected = (json.loads((r / "summary.json").read_text()) for r in (forked, alone))
    assert summary["status"] == "finished"
    assert (summary["epochs"], summary["best_epoch"]) == (2, expected["best_epoch"])
    assert all(summary["timing"][name] > 0 for name in expected["timing"])
    assert summary["metrics"].keys() == expected["metrics"].keys()
    for name, value in expected["metrics"].items():
        assert summary["metrics"][name] == pytest.approx(value, abs=1e-4, nan_ok=True), name
    for row, wanted in zip(rows_of(forked), rows_of(alone), strict=True):
        assert numbers(row) == pytest.approx(numbers(wanted), abs=1e-4)
    tables = [(r / "predictions_test.csv").read_text().splitlines() for r in (forked, alone)]
    paths, wanted_paths = ([line.split(",")[0] for line in table] for table in tables)
    assert paths == wanted_paths


@pytest.mark.slow
def test_an_error_in_a_copy_of_the_process_is_one_line(tmp_path: Path) -> None:
    done = run_program(tmp_path, *PLAIN, *FORKED, "optimizer.lr=1e30", "run_dir=failed")
    assert done.returncode == 2  # torch passes on only the text of that process, not the 3
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the training loss became NaN or infinite in epoch 1 (loss);")
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "failed" / "summary.json").read_text())["status"] == "failed"
    assert not (tmp_path / "failed" / ".handover.json").exists()


def test_an_error_from_another_process_is_unchanged() -> None:
    error = MedvisionError("what", where="where", hint="hint", exit_code=3)
    back = pickle.loads(bytes(ForkingPickler.dumps(error)))
    assert vars(back) == vars(error)
    assert str(back) == "what (where); hint"


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(("polyp_unet", "callbacks=early_stopping", "scheduler=cosine"), id="unet"),
        pytest.param(
            ("chest_xray_cnn", "model.base_channels=2", "data.sampler=balanced"),
            marks=pytest.mark.slow,
            id="cnn",
        ),
        pytest.param(
            ("brain_mri_lite0", "model.weights=none", "callbacks=finetuning"),
            marks=pytest.mark.slow,
            id="lite0",
        ),
    ],
)
def test_everything_that_a_fit_sends_to_another_process_can_be_pickled(
    small: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    experiment: tuple[str, ...],
) -> None:
    sent: list[Any] = []

    def send(self: Trainer, *args: Any, **kwargs: Any) -> None:
        sent.append((self, args, bytes(ForkingPickler.dumps((self, args, kwargs)))))
        raise MedvisionError("sent", exit_code=7)

    monkeypatch.setattr(Trainer, "_fit_impl", send)
    monkeypatch.chdir(tmp_path)
    name, *overrides = experiment
    assert main([*small, f"experiment={name}", *overrides]) == 7
    ((trainer, (task, *_), data),) = sent
    there, (same_task, *_), _ = pickle.loads(data)
    assert [type(c) for c in there.callbacks] == [type(c) for c in trainer.callbacks]
    for (key, weight), (same_key, same) in zip(
        task.state_dict().items(), same_task.state_dict().items(), strict=True
    ):
        assert key == same_key
        assert weight.equal(same)
