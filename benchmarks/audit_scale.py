"""Measure how the audit grows with the number of images: seconds and peak memory of each step.

`python benchmarks/audit.py scale` runs it.
"""

import json
import math
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from synthetic_faults.changes import encode
from synthetic_faults.draws import CLASSES, Scenes

STEPS = {
    "read": "reading the files",
    "near_duplicates": "finding near-duplicates",
    "audit": "the whole audit",
    "again": "the whole audit, files known",
}
_DRAWN = "brain"
_PORTION = 500  # images that a process draws at a time


def scale(folder: Path, counts: Sequence[int], size_px: int) -> None:
    """Print seconds and memory for each number of images, and the exponents between them.

    Args:
        folder: Where phantoms are drawn, or lie from an earlier call.
        counts: Numbers of images, ascending.
        size_px: Their height and width.
    """
    started_s = time.perf_counter()
    pool = folder / f"pool_{size_px}"
    _draw_pool(pool, max(counts), size_px)
    seconds = time.perf_counter() - started_s
    print(f"### Growth\n\n{max(counts)} phantoms of {size_px} px, drawn in {seconds:.0f} s\n")
    results: dict[str, list[dict[str, float]]] = {step: [] for step in STEPS}
    for count in counts:
        root, cache = folder / f"first_{count}", folder / "cache"
        _link_first(pool, root, count)
        for step in STEPS:
            if step in ("read", "audit"):
                shutil.rmtree(cache, ignore_errors=True)
            results[step].append(_alone(step, root, cache))
            print(f"{count} {step}: {results[step][-1]}", file=sys.stderr, flush=True)
        shutil.rmtree(root)
        shutil.rmtree(cache)
    print(
        "| step | images | s | s of all cores | grows with n to the | peak MB | duplicate pairs |"
    )
    print("|---|---|---|---|---|---|---|")
    for step, rows in results.items():
        for k, (count, row) in enumerate(zip(counts, rows, strict=True)):
            growth = ""
            if k:
                ratio = row["cpu_s"] / rows[k - 1]["cpu_s"]  # other programs count less
                growth = f"{math.log(ratio) / math.log(count / counts[k - 1]):.2f}"
            print(
                f"| {STEPS[step]} | {count} | {row['wall_s']:.1f} | {row['cpu_s']:.1f} | {growth}"
                f" | {row['peak_mb']:.0f} | {row['pairs']:.0f} |"
            )


def measure(step: str, root: Path) -> dict[str, float]:
    """Take one step in this process; return seconds, peak memory and near-duplicate pairs."""
    pairs = 0
    facts = root.with_name(f"{root.name}.npz")
    if step == "read":
        from medvision.data.discovery.index import index_classification
        from medvision.data.reading import Reading
        from medvision.data.validation.validate import check_files

        started = _now()
        found = check_files(
            root, index_classification(root).samples, Reading(), max_decoded=None
        ).properties
        spent = _now() - started
        assert found is not None
        np.savez(
            facts,
            thumbnail=found.thumbnail,
            pixel_hash=found.pixel_hash,
            content=found.content,
        )
    elif step == "near_duplicates":
        from medvision.data.duplicates.search import find_near_duplicates

        with np.load(facts) as columns:
            thumbnail, pixel_hash = columns["thumbnail"], columns["pixel_hash"]
            content = columns["content"]
        facts.unlink()
        started = _now()
        pairs = len(find_near_duplicates(thumbnail, pixel_hash, contents=content).first)
        spent = _now() - started
    else:
        from medvision.audit.check import audit
        from medvision.audit.dataset import scan as read_folder

        started = _now()
        result = audit(read_folder(root), started=time.perf_counter())
        spent = _now() - started
        pairs = len(result.data.near_duplicates.first)
    unit = 1 if sys.platform == "darwin" else 1024
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    wall_s, cpu_s = spent.tolist()
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb, "pairs": pairs}


def _now() -> NDArray[np.float64]:
    """Seconds on the clock, and of this process on all cores."""
    return np.array([time.perf_counter(), time.process_time()])


def _alone(step: str, root: Path, cache: Path) -> dict[str, float]:
    """Measure in a process of its own: peak memory never falls again."""
    program = Path(__file__).with_name("audit.py")
    command = [sys.executable, str(program), "alone", step, str(root)]
    settings = {**os.environ, "MEDVISION_CACHE_DIR": str(cache)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=settings)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _draw_pool(pool: Path, count: int, size_px: int) -> None:
    """Draw one folder of files for each class, in as many processes as there are cores."""
    for name in CLASSES[_DRAWN]:
        (pool / name).mkdir(parents=True, exist_ok=True)
    starts = range(0, count, _PORTION)
    work = [(pool, range(k, min(k + _PORTION, count)), size_px) for k in starts]
    with multiprocessing.Pool() as workers:
        workers.map(_draw_some, work, chunksize=1)


def _draw_some(work: tuple[Path, range, int]) -> None:
    pool, numbers, size_px = work
    cv2.setNumThreads(1)
    scenes, names = Scenes(drawn=_DRAWN, size_px=size_px, seed=0), CLASSES[_DRAWN]
    for number in numbers:
        label = number % len(names)
        path = pool / names[label] / f"{number:06d}.png"
        if not path.exists():
            path.write_bytes(encode(scenes.draw(number, label)[0], ".png"))


def _link_first(pool: Path, root: Path, count: int) -> None:
    """Lay the first images of the pool into train and test, four to one."""
    names = CLASSES[_DRAWN]
    for number in range(count):
        name = names[number % len(names)]
        split = "test" if number // len(names) % 5 == 4 else "train"
        path = root / split / name / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(pool / name / path.name, path)
