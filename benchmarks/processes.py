"""Compare the scores of one process with those of several that train the same.

`python benchmarks/processes.py [--epochs 2] [--threads 1] [--ways host hosts]` prints a table.
Phantoms of 32 px, float32, no batch norm, no dropout, 7, 8 and 9 test images; one process with a
batch of 8 against two with a batch of 4 each, started in every way there is on one machine.
"""

import argparse
import csv
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPERIMENTS = {
    "polyp_unet": ("model.batch_norm=false",),  # it would see the rows of one process only
    "chest_xray_cnn": (),
    "brain_mri_cnn": (),
}
"""Experiments that are trained, with further arguments of their commands."""

NUM_IMAGES = {
    "polyp_unet": (41, 42, 43),
    "chest_xray_cnn": (35, 36, 45),
    "brain_mri_cnn": (31, 32, 49),
}
"""So many phantoms that 7, 8 and 9 of them are test images."""

SMALL = (
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "logger=csv",
    "data.image_size=32",
    "data.num_workers=0",
    "data.val_fraction=0.15",
    "data.test_fraction=0.2",
    "model.base_channels=4",
)
STAGES = ("val", "train", "test")
WAYS = {
    "host": "by itself: trainer=ddp trainer.devices=2",
    "torchrun": "torchrun --nproc-per-node 2",
    "hosts": "on two hosts: NODE_RANK, MASTER_ADDR, MASTER_PORT",
    "torchrun_hosts": "on two hosts: torchrun --nnodes 2",
}


def run(way: str, arguments: Sequence[str], folder: Path, threads: int) -> Path:
    """Train with one command, or one for each host; return the run."""
    folder.mkdir(parents=True)
    train, port = [str(ROOT / "train.py"), *arguments], str(_free_port())
    torchrun = ["-m", "torch.distributed.run", "--master-addr", "127.0.0.1", "--master-port", port]
    ddp, hosts = ["trainer=ddp"], ["trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"]
    commands: dict[str, list[list[str]]] = {
        "one": [[*train, "trainer=cpu", "data.batch_size=8"]],
        "host": [[*train, *ddp]],
        "torchrun": [[*torchrun, "--nproc-per-node", "2", *train, *ddp]],
        "hosts": [[*train, *hosts], [*train, *hosts]],
        "torchrun_hosts": [
            [*torchrun, "--nnodes", "2", "--node-rank", str(rank), *train, *hosts]
            for rank in range(2)
        ],
    }
    started = []
    for rank, command in enumerate(commands[way]):
        own = {"OMP_NUM_THREADS": str(threads), "MEDVISION_STATE_DIR": str(folder / "state")}
        if way == "hosts":
            own |= {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        small = [*SMALL, *([] if way == "one" else ["data.batch_size=4"])]
        with (folder / f"{rank}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command, *small],
                cwd=folder,
                env={**os.environ, **own},
                stdout=log,
                stderr=log,
            )
        started.append(process)
    for rank, process in enumerate(started):
        if process.wait() != 0:
            raise SystemExit(f"{way}: {(folder / f'{rank}.log').read_text()}")
    (made,) = folder.glob("runs/*/*/")
    return made


def scores(run_dir: Path) -> dict[str, float]:
    """Every value of metrics.csv by epoch and name, and every test score."""
    found: dict[str, float] = {}
    with (run_dir / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            epoch = row.pop("epoch")
            found |= {f"{name}, epoch {epoch}": _number(text) for name, text in row.items()}
    for name, value in json.loads((run_dir / "summary.json").read_text())["metrics"].items():
        ends = value if isinstance(value, list) else [value]
        found |= {f"{name}.{i}": math.nan if v is None else v for i, v in enumerate(ends)}
    return found


def largest_difference(first: dict[str, float], second: dict[str, float], part: str) -> float:
    """Largest difference of the scores whose name starts with ``part``; NaN equals NaN.

    Raises:
        SystemExit: If one of the two has a score that the other lacks.
    """
    if first.keys() != second.keys():
        raise SystemExit(f"not the same scores: {sorted(first.keys() ^ second.keys())}")
    largest = 0.0
    for name in (name for name in first if name.startswith(part)):
        if math.isnan(first[name]) != math.isnan(second[name]):
            return math.inf
        if not math.isnan(first[name]):
            largest = max(largest, abs(first[name] - second[name]))
    return largest


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    print("| experiment | two processes, started | images | val, all epochs | train | test |")
    print("|---|---|---|---|---|---|")
    for experiment, own in EXPERIMENTS.items():
        for num_images in NUM_IMAGES[experiment]:
            arguments = [
                f"experiment={experiment}",
                f"trainer.max_epochs={options.epochs}",
                f"data.num_images={num_images}",
                *own,
            ]
            with tempfile.TemporaryDirectory() as folder:
                one = run("one", arguments, Path(folder, "one"), options.threads)
                for way in options.ways:
                    several = run(way, arguments, Path(folder, way), options.threads)
                    print(_row(experiment, WAYS[way], one, several), flush=True)


def _row(experiment: str, way: str, one: Path, several: Path) -> str:
    first, second = scores(one), scores(several)
    counts = json.loads((one / "summary.json").read_text())["dataset"]["num_images"]
    images = " + ".join(map(str, counts.values()))
    differences = [largest_difference(first, second, f"{stage}/") for stage in STAGES]
    cells = " | ".join(f"{difference:.1e}" for difference in differences)
    return f"| {experiment} | {way} | {images} | {cells} |"


def _number(text: str) -> float:
    return math.nan if text == "" else float(text)


def _free_port() -> int:
    """A port that is free, and the next ones most likely too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 65000)


if __name__ == "__main__":
    main()
