"""Measure the savings of pruning: the same search with and without it.

    python benchmarks/pruning.py [--trials 20] [--epochs 12] [--folder FOLDER] [key=value ...]

A random search proposes the same values whatever the trials before it scored, so both searches
try the same settings; the difference is what the median pruner stopped. Learning rate, width and
loss of a small U-Net on phantoms are searched. Printed are the epochs trained, the share that was
saved and the best value of each; exit code 1 where less than 30 % was saved or the best value is
another one.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"
LEAST_SAVED = 0.3
SEARCH = (
    "sweep=random",
    "experiment=polyp_unet",
    "optimizer.lr=tag(log,interval(1e-5,1e-1))",
    "model.base_channels=choice(4,8)",
    "loss=bce,dice",
    "trainer=cpu",
    "trainer.precision=32",
    "logger=csv",
    "audit=skip",
    "data.image_size=64",
    "data.num_images=80",
    "data.batch_size=8",
    "data.num_workers=0",
)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Trials and result of a search."""

    trials: int
    pruned: int
    epochs: int
    best: float
    values: str
    seconds: float


def search(folder: Path, pruner: str, arguments: argparse.Namespace) -> Searched:
    """Run or continue the search with this pruner."""
    command = [
        *SEARCH,
        f"sweep.name={pruner}",
        f"sweep.pruner={pruner}",
        f"sweep.num_trials={arguments.trials}",
        f"trainer.max_epochs={arguments.epochs}",
        *arguments.overrides,
    ]
    started_s = time.perf_counter()
    with (folder / f"{pruner}.txt").open("w") as output:
        subprocess.run(
            [sys.executable, str(TRAIN), *command], cwd=folder, stdout=output, check=True
        )
    seconds = time.perf_counter() - started_s
    with (folder / "runs" / "sweep" / pruner / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    complete = [row for row in rows if row["state"] == "complete"]
    best = max(complete, key=lambda row: float(row["value"]))
    names = [name for name in best if "." in name or name == "loss"]
    return Searched(
        trials=len(rows),
        pruned=sum(row["state"] == "pruned" for row in rows),
        epochs=sum(int(row["epochs"] or 0) for row in rows),
        best=float(best["value"]),
        values=", ".join(f"{name} {best[name]}" for name in names),
        seconds=seconds,
    )


def main() -> int:
    """Search twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = {pruner: search(folder, pruner, arguments) for pruner in ("none", "median")}
    print("| pruner | trials | pruned | epochs | time | best val/dice | with |")
    print("|---|---|---|---|---|---|---|")
    for pruner, one in found.items():
        print(
            f"| {pruner} | {one.trials} | {one.pruned} | {one.epochs} | {one.seconds:.0f} s"
            f" | {one.best:.4f} | {one.values} |"
        )
    saved = 1 - found["median"].epochs / found["none"].epochs
    same = found["median"].best == found["none"].best
    print(f"\nsaved {saved:.0%} of the epochs; the best value is {'the same' if same else 'not'}")
    return 0 if saved >= LEAST_SAVED and same else 1


if __name__ == "__main__":
    sys.exit(main())
