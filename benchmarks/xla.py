"""Check the TPU path on XLA's CPU backend: compilations, fallbacks, agreement with the CPU.

For each experiment, at a small size:

1. ``trainer=tpu_rehearsal`` as it is (bfloat16), three epochs: graphs compiled in each, operators
   that fell back.
2. In float32 without dropout, ten epochs of one step each on XLA and on the CPU: the largest
   difference of the ten training losses.
3. The best weights of that XLA run measured on the CPU (``medvision evaluate --accelerator cpu``):
   the largest difference of all figures of validation and test, the ends of intervals included.

    python benchmarks/xla.py [EXPERIMENT ...]
"""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

TRAIN = Path(__file__).parents[1] / "train.py"
SMALL = ["data.num_workers=0", "logger=csv", "trainer=tpu_rehearsal"]
SIZES = {
    "polyp_unet": ["data.image_size=64", "data.num_images=50", "model.base_channels=4"],
    "chest_xray_cnn": ["data.image_size=64", "data.num_images=60", "model.base_channels=4"],
    "brain_mri_alexnet": ["data.image_size=64", "data.num_images=60", "data.batch_size=8"],
    "brain_mri_lite0": ["data.image_size=64", "data.num_images=60", "data.batch_size=8"],
}
EXACT = {
    "chest_xray_cnn": ["model.dropout=0"],
    # At Adam's 1e-3 these two make 1e-2 of a difference of 1e-6 within ten steps.
    "brain_mri_alexnet": ["model.dropout=0", "optimizer.lr=1e-5"],
    "brain_mri_lite0": ["model.dropout=0", "optimizer.lr=1e-5"],
}
"""Further arguments for comparing losses: no dropout."""

STEPS = 10


def train(folder: Path, experiment: str, *overrides: str) -> Path:
    """Run the program in a folder; return the run."""
    before = set(folder.glob("runs/*/*/summary.json"))
    arguments = [f"experiment={experiment}", *SIZES[experiment], *SMALL, *overrides]
    done = subprocess.run(
        [sys.executable, str(TRAIN), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{experiment}: exit {done.returncode}: {done.stderr.strip()}")
    (made,) = set(folder.glob("runs/*/*/summary.json")) - before
    return made.parent


def losses(run: Path) -> list[float]:
    """Training loss of each epoch."""
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def difference(run: Path, split: str) -> tuple[int, float, str]:
    """Measure the run on the CPU: figures compared, the largest difference, and where it is."""
    out = run.parent / f"{run.name}_{split}"
    command = ["evaluate", str(run), "--split", split, "--accelerator", "cpu", "--out", str(out)]
    program = "from medvision.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", program, *command],
        check=True,
        capture_output=True,
        cwd=run.parents[2],
    )
    evaluated = json.loads((out / "summary.json").read_text())["evaluated"]
    worst = evaluated["largest_difference"]
    return (
        evaluated["figures_compared"],
        float("nan") if worst is None else worst,
        evaluated["differs_most"],
    )


def main() -> None:
    """Print a row for each experiment."""
    experiments = sys.argv[1:] or list(SIZES)
    print(
        "| experiment | compilations by epoch | fell back | ten training losses, largest"
        " difference | figures, largest difference | s |\n|---|---|---|---|---|---|"
    )
    for experiment in experiments:
        started_s = time.perf_counter()
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            xla = json.loads(
                (train(folder, experiment, "trainer.max_epochs=3") / "summary.json").read_text()
            )["xla"]
            exact = [
                "trainer.precision=32",
                f"trainer.max_epochs={STEPS}",
                "trainer.limit_train_batches=1",
                *EXACT.get(experiment, []),
            ]
            there = train(folder, experiment, *exact)
            here = train(folder, experiment, *exact, "trainer=cpu")
            steps = zip(losses(there), losses(here), strict=True)
            off = max(abs(a - b) for a, b in steps)
            measured = [difference(there, split) for split in ("val", "test")]
        count = sum(figures for figures, _, _ in measured)
        _, worst, where = max(measured, key=lambda m: m[1])
        fallbacks = ", ".join(f"{n} {k}x" for n, k in xla["fallbacks"].items()) or "nothing"
        print(
            f"| {experiment} | {xla['compilations_per_epoch']} | {fallbacks} | {off:.1e}"
            f" | {worst:.1e} of {count} ({where}) | {time.perf_counter() - started_s:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
