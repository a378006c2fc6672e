"""How fast images become masks on disk, beside the network alone, and how much memory it takes.

    python benchmarks/predict.py RUN FOLDER_OF_IMAGES [--seconds 20] [--memory]

Prints images per second of the bare forward pass over prepared batches (all cores in one pass,
and one core each for as many passes as there are cores), of `medvision predict` from files to
masks, overlays and table, and their ratio, three rounds in turn. With --memory also the peak of
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
from medvision.inference.folders import BATCH_SIZE
from medvision.inference.inputs import find_inputs

COUNTS = (500, 5000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=20, help="of each forward measurement")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only-predict", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_predict:
        _report_peak(given.run, given.images, given.only_predict)
        return
    keep_freed_memory()
    model = load_model(given.run)
    print(repr(model))
    batch = _prepared(model, given.images)
    for number in range(3):
        together = _forward(model, batch, given.seconds)
        apart = _forward_side_by_side(model, batch, given.seconds)
        files = _files(model, given.images)
        best = max(together, apart)
        print(
            f"round {number + 1}: forward {together:.1f} images/s in one pass, {apart:.1f} in one"
            f" for each core; files {files:.1f} images/s; ratio {files / best:.2f} of the faster"
        )
    if given.memory:
        _memory(given.run, given.images)


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
            command = [sys.executable, __file__, str(run), str(copies)]
            command += ["--only-predict", str(Path(scratch) / "out")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout.split()[-1]))
            print(f"{count} files: peak {peaks[-1]:.0f} MB")
    print(f"peak at {COUNTS[1]} files over that at {COUNTS[0]}: {peaks[1] / peaks[0]:.3f}")


def _report_peak(run: Path, images: Path, out: Path) -> None:
    keep_freed_memory()
    predict_files(load_model(run), [images], out=out)
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


if __name__ == "__main__":
    main()
