"""Measure the speed of the loader: from plain files, local shards, and shards of a web server.

    python benchmarks/streaming.py [--data FOLDER] [--workers 0 2] [--rounds 3]

One epoch of the training split of phantoms that are written first, or of a folder of images with
masks: decoding, resizing, stacking, no network behind it. Every measurement is a fork of its own,
from the first requested batch to the last, the start of loader processes included; its check of the
files is done before. ``dropped``: the files are put out of the memory of the machine, so that the
disk is read. ``http``: the server is a process of this machine; ``cold`` begins with an empty cache
on disk, ``warm`` with that of the ``cold`` measurement before. Beside the rate: what an image takes
of the processors, which work of others on the machine changes less. Ratios are of one round.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch

from medvision.data import SegmentationData
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.data.shards.create import make_shards
from medvision.run.config.store import keys_of

KINDS = ("plain", "shards", "http cold", "http warm", "plain dropped", "shards dropped")
MEGABYTE = 10**6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of images with masks")
    parser.add_argument("--phantoms", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256, help="of the images in a batch; pixels")
    parser.add_argument("--shard-mb", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cv2.setNumThreads(1)  # before it starts threads, which would be missing in a fork
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDVISION_CACHE_DIR"] = str(Path(scratch, "facts"))
        plain = given.data or _phantoms(Path(scratch, "plain"), given.phantoms)
        made = make_shards(plain, Path(scratch, "shards"), shard_bytes=given.shard_mb * MEGABYTE)
        files = sum(path.stat().st_size for path in plain.rglob("*") if path.is_file())
        print(
            f"{made.manifest.num_images} images with masks, {files / MEGABYTE:.1f} MB of files;"
            f" {len(made.manifest.shards)} shards, {made.num_bytes / MEGABYTE:.1f} MB"
        )
        for workers in given.workers:
            _compare(plain, made.out, workers, given.rounds, given.size)


def _compare(plain: Path, shards: Path, workers: int, rounds: int, size_px: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with _served(shards) as address:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                for kind in KINDS:
                    what = kind.split()[0]
                    root = {"plain": str(plain), "shards": str(shards), "http": address}[what]
                    if kind.endswith("dropped"):
                        _drop(plain if what == "plain" else shards)
                    place = cache if what == "http" else os.environ["MEDVISION_CACHE_DIR"]
                    found[kind].append(_alone(root, workers, size_px, place))
    for kind in KINDS:
        base = found["plain dropped" if kind.endswith("dropped") else "plain"]
        pairs = list(zip(found[kind], base, strict=True))
        rate, costs = (statistics.median(values) for values in zip(*found[kind], strict=True))
        faster = statistics.median(own[0] / other[0] for own, other in pairs)
        dearer = statistics.median(own[1] / other[1] for own, other in pairs)
        shown = " ".join(f"{rate:.0f}" for rate, _ in found[kind])
        print(
            f"{workers} workers, {kind:14} {rate:5.0f} images/s ({shown}), {faster:.2f} of plain;"
            f" {costs:.2f} ms of a core for an image, {dearer:.2f} of plain",
            flush=True,
        )


def _alone(root: str, workers: int, size_px: int, cache: str) -> tuple[float, float]:
    """Measure in a process that nothing was done in before."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_measure, args=(answers, root, workers, size_px, cache))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"measuring {root} failed")
    return answers.get()


def _measure(answers: Any, root: str, workers: int, size_px: int, cache: str) -> None:
    """Put images per second, and milliseconds of a core for each, into the queue."""
    os.environ["MEDVISION_CACHE_DIR"] = cache
    config: Any = keys_of("data", "folder_segmentation")
    config.pop("_target_")
    changes = {"root": root, "seed": 0, "image_size": size_px, "num_workers": workers}
    data = SegmentationData(**{**config, **changes})
    data.prepare()
    loader = data.train_dataloader()
    started, before = time.perf_counter(), _core_seconds()
    seen = sum(len(batch["image"]) for batch in loader)
    elapsed = time.perf_counter() - started
    del loader  # its processes end, and what they took is known
    answers.put((seen / elapsed, 1000 * (_core_seconds() - before) / seen))


def _core_seconds() -> float:
    return sum(os.times()[:4])


def _phantoms(root: Path, count: int) -> Path:
    """Write phantoms as colonoscopy sets have them: JPEG images of 352 pixels, PNG masks."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        image, mask = draw_polyp_scene(number, size_px=352, seed=0)
        name = f"phantom_{number:06d}"
        cv2.imwrite(str(root / "images" / f"{name}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(root / "masks" / f"{name}.png"), mask * 255)
    return root


def _drop(folder: Path) -> None:
    """Put what a folder holds out of the memory of the machine."""
    for path in folder.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """A web server over a folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--directory", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
