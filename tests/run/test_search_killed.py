"""A repeatedly killed search ends every trial exactly once."""

import csv
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NUM_TRIALS = 12
CREATED, ENDED, REPORTED = 4, 6, 7
"""Names in optuna's journal of the start and end of a trial, and of the value of an epoch."""

COMMAND = (
    "sweep=tpe",
    "experiment=polyp_unet",
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "model.base_channels=choice(2,4)",
    "loss=bce,dice",
    "sweep.name=killed",
    f"sweep.num_trials={NUM_TRIALS}",
    "sweep.startup_trials=3",
    "trainer=cpu",
    "trainer.max_epochs=6",
    "logger=csv",
    "data.image_size=32",
    "data.num_images=48",
    "data.batch_size=4",
    "data.num_workers=0",
)


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *COMMAND, *more],
            cwd=folder,
            stdout=output,
            stderr=output,
        )


def kill_and_continue(folder: Path, *more: str, kills: int, seed: int) -> int:
    """Kill and continue a search at random moments; return the number of kills."""
    rng, killed = random.Random(seed), 0
    for _ in range(kills):
        process = start(folder, *more)
        try:
            process.wait(timeout=rng.uniform(4, 18))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    process = start(folder, *more)
    assert process.wait(timeout=900) == 0, (folder / "output.txt").read_text()[-2000:]
    return killed


def journal(folder: Path) -> list[dict[str, Any]]:
    path = folder / "runs" / "sweep" / "killed" / "journal.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs" / "sweep" / "killed" / "trials.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def check_ended_once(folder: Path) -> None:
    reported = journal(folder)
    assert sum(line["op_code"] == CREATED for line in reported) == NUM_TRIALS
    ends = Counter(line["trial_id"] for line in reported if line["op_code"] == ENDED)
    assert ends == dict.fromkeys(range(NUM_TRIALS), 1)
    epochs = Counter(
        (line["trial_id"], line["step"]) for line in reported if line["op_code"] == REPORTED
    )
    assert set(epochs.values()) == {1}
    for number in range(NUM_TRIALS):
        run = folder / "runs" / "sweep" / "killed" / str(number)
        assert json.loads((run / "summary.json").read_text())["status"] in ("finished", "pruned")
        with (run / "metrics.csv").open(newline="") as file:
            trained = [int(row["epoch"]) for row in csv.DictReader(file)]
        assert trained == list(range(len(trained)))


@pytest.mark.slow
def test_a_killed_search_ends_each_trial_once_with_the_results_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    started_s = time.monotonic()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    assert start(whole).wait(timeout=900) == 0, (whole / "output.txt").read_text()[-2000:]
    killed = kill_and_continue(parts, kills=12, seed=0)
    assert killed > 0
    check_ended_once(parts)
    assert rows(parts) == rows(whole)
    print(f"killed {killed} times, {time.monotonic() - started_s:.0f} s")


@pytest.mark.slow
def test_a_killed_search_with_two_jobs_ends_each_trial_once(tmp_path: Path) -> None:
    more = ("hydra/launcher=joblib", "sweep.jobs=2")
    assert kill_and_continue(tmp_path, *more, kills=6, seed=1) > 0
    check_ended_once(tmp_path)
