"""Measure speed and memory from images to masks on disk, beside the network alone.

    python benchmarks/predict.py RUN FOLDER_OF_IMAGES [--seconds 20] [--memory]

Prints images per second of the bare forward pass over prepared batches (all cores in one pass,
and one core each for as many passes as there are cores), of `medvision predict` from files to
masks, overlays and table, and their ratios, some rounds in turn. With --memory also the peak of
the process over 500 and over 5000 files.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvision import load_model
from medvision.hardware import keep_freed_memory
from medvision.inference import Model, predict_files
from medvision.inference.inputs import find_inputs
from medvision.inference.predict import BATCH_SIZE

COUNTS = (500, 5000)
MEASUREMENTS = ("together", "apart", "files")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=20, help="of each forward measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--alone", choices=[*MEASUREMENTS, "peak"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        keep_freed_memory()
        print(_measure(given.alone, given.run, given.images, given.seconds))
        return
    print(repr(load_model(given.run)))
    for number in range(given.rounds):
        # each in a separate process: remaining threads of one would slow down the next
        together, apart, files = (
            _alone(name, given.run, given.images, given.seconds) for name in MEASUREMENTS
        )
        print(
            f"round {number + 1}: forward {together:.1f} images/s in one pass, {apart:.1f} in one"
            f" for each core; files {files:.1f} images/s: {files / together:.2f} of the first,"
            f" {files / apart:.2f} of the second",
            flush=True,
        )
    if given.memory:
        _memory(given.run, given.images)


def _alone(name: str, run: Path, images: Path, seconds: float) -> float:
    command = [sys.executable, __file__, str(run), str(images), "--alone", name]
    command += ["--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _measure(name: str, run: Path, images: Path, seconds: float) -> float:
    model = load_model(run)
    if name == "files":
        return _files(model, images)
    if name == "peak":
        _files(model, images)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    forward = _forward if name == "together" else _forward_side_by_side
    return forward(model, _prepared(model, images), seconds)


def _prepared(model: Model, folder: Path) -> NDArray[np.uint8]:
    chosen, _ = find_inputs([folder])
    return np.stack([model.prepare(model.read(each.path)) for each in chosen[:BATCH_SIZE]])


def _forward(model: Model, batch: NDArray[np.uint8], seconds: float) -> float:
    model.engine.logits(batch)
    started_s, count = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        model.engine.logits(batch)
        count += len(batch)
    return count / (time.perf_counter() - started_s)


def _forward_side_by_side(model: Model, batch: NDArray[np.uint8], seconds: float) -> float:
    threads = model.engine.threads
    with (
        model.engine.side_by_side(),
        ThreadPoolExecutor(threads, initializer=model.engine.start_thread) as pool,
    ):
        rates = list(pool.map(lambda _: _forward(model, batch, seconds), range(threads)))
    return sum(rates)


def _files(model: Model, folder: Path) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        done = predict_files(model, [folder], out=Path(scratch) / "out")
    return done.num_done / done.seconds


def _memory(run: Path, folder: Path) -> None:
    files = [each.path for each in find_inputs([folder])[0]]
    peaks = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as scratch:
            copies = Path(scratch) / "in"
            copies.mkdir()
            for number in range(count):
                source = files[number % len(files)]
                shutil.copyfile(source, copies / f"{number:06d}{source.suffix}")
            peaks.append(_alone("peak", run, copies, 0))
            print(f"{count} files: peak {peaks[-1]:.0f} MB")
    print(f"peak at {COUNTS[1]} files over that at {COUNTS[0]}: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
