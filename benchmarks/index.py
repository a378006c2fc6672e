"""Measure how the start of a training grows with the number of files, up to a million.

    python benchmarks/index.py [--counts 10000 100000 1000000] [--layouts classes csv masks]
                               [--steps prepare train] [--folder DIR] [--core 1]

Makes sets of PNG files of 32 px (hard links to 500 pictures: names are what is counted; the cache
of the disk is warm) as class folders, as class folders with a splits.csv, or as images with masks,
in DIR or in a folder that is removed at the end. Each figure is of a fresh process on one core.

`prepare` starts a process, composes the config, runs `ImageData.prepare` (find, check, split) and
takes 50 batches from a loader with two worker processes: seconds on the clock and of the processor,
peak memory of the process, what it adds to the one before `prepare`, memory that is a worker's own
(shared pages not counted), seconds from the start of the process to the first batch. `train` runs
train.py to the end with two batches of training and one of each split that is measured.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAYOUTS = ("classes", "csv", "masks")
STEPS = ("prepare", "train")
NUM_CLASSES = 4
NUM_PICTURES = 500
SIZE_PX = 32
NUM_BATCHES = 50
COLUMNS = {
    "prepare": {
        "prepare_s": "find, check, split (s)",
        "prepare_cpu_s": "of the processor (s)",
        "peak_mb": "peak (MB)",
        "added_mb": "of it by the set (MB)",
        "worker_mb": "a worker's own (MB)",
        "first_batch_s": "start to first batch (s)",
    },
    "train": {
        "total_cpu_s": "of the processor (s)",
        "first_step_s": "start to first step (s)",
        "total_s": "whole program (s)",
        "program_mb": "peak (MB)",
    },
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--folder", type=Path, help="make the sets here and keep them")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone is not None:
        print(json.dumps(_prepare(given.alone, given.layouts[0])))
        return
    started = f"`python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"
    print(f"{started}, on core {given.core} of {os.cpu_count()}\n")
    os.sched_setaffinity(0, {given.core})
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        results = [
            (layout, count, _measured(folder, layout, count, given.steps))
            for layout in given.layouts
            for count in given.counts
        ]
    for step in given.steps:
        _print_table(results, COLUMNS[step])


def _measured(folder: Path, layout: str, count: int, steps: Sequence[str]) -> dict[str, float]:
    root = folder / f"{layout}_{count}"
    if not root.exists():
        make_set(root, layout, count)
    found: dict[str, float] = {}
    cache = folder / "cache"
    for step in steps:
        shutil.rmtree(cache, ignore_errors=True)  # each start is a first one
        settings = {**os.environ, "MEDVISION_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
        settings["MEDVISION_STATE_DIR"] = str(folder / "state")
        run = _train if step == "train" else _alone
        found |= run(root, layout, settings, folder)
        print(f"{layout} {count} {step}: {found}", file=sys.stderr, flush=True)
    shutil.rmtree(cache, ignore_errors=True)
    return found


def make_set(root: Path, layout: str, count: int) -> None:
    """Create a data set of this many images, completely or not at all.

    Args:
        root: A folder that does not exist.
        layout: One of ``LAYOUTS``.
        count: Number of images.
    """
    import cv2
    import numpy as np

    temporary = root.with_name(f"{root.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pictures = temporary / ".pictures"  # hidden: no part of the set
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        image = rng.integers(0, 256, (SIZE_PX, SIZE_PX), np.uint8)
        cv2.imwrite(f"{pictures}/{number}.png", image)
        cv2.imwrite(f"{pictures}/{number}_mask.png", image // 128 * 255)
    names = [f"images/{k:07d}.png" for k in range(count)]
    if layout != "masks":
        names = [f"class_{k % NUM_CLASSES}/{k:07d}.png" for k in range(count)]
    for folder in {name.rpartition("/")[0] for name in names[:NUM_CLASSES]} | {"masks"}:
        (temporary / folder).mkdir()
    for number, name in enumerate(names):
        picture = number // NUM_CLASSES % NUM_PICTURES
        os.link(f"{pictures}/{picture}.png", f"{temporary}/{name}")
        if layout == "masks":
            mask = f"masks/{number:07d}.png"
            os.link(f"{pictures}/{picture}_mask.png", f"{temporary}/{mask}")
    if layout != "masks":
        (temporary / "masks").rmdir()
    if layout == "csv":
        rows = (f"{name},{name.rpartition('/')[0]}\n" for name in names)
        with (temporary / "splits.csv").open("w") as stream:
            stream.writelines(["path,target\n", *rows])
    temporary.rename(root)


def _arguments(root: Path, layout: str) -> list[str]:
    masks = layout == "masks"
    return [
        f"experiment={'polyp_unet' if masks else 'brain_mri_cnn'}",
        f"data=folder_{'segmentation' if masks else 'classification'}",
        f"data.root={root}",
        f"data.image_size={SIZE_PX}",
        "data.in_channels=1",
        "data.batch_size=8",
        "data.num_workers=2",
        "model.base_channels=4",
        "trainer=cpu",
        "logger=csv",
    ]


def _alone(root: Path, layout: str, settings: dict[str, str], folder: Path) -> dict[str, float]:  # noqa: ARG001
    """Measure in a process of its own: peak memory never falls again."""
    program = [sys.executable, __file__, "--alone", str(root), "--layouts", layout]
    settings = {**settings, "BENCHMARK_STARTED": str(time.time())}
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True, env=settings)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _prepare(root: Path, layout: str) -> dict[str, float]:
    """Prepare the data set in this process, and read some batches."""
    import warnings

    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from medvision.data import ImageData

    warnings.filterwarnings("ignore", message="This DataLoader will create")  # one core on purpose
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        data: ImageData = instantiate(compose("train", _arguments(root, layout)).data)
    before_mb = _peak_mb()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    data.prepare()
    found = {
        "prepare_s": time.perf_counter() - started_s,
        "prepare_cpu_s": time.process_time() - started_cpu_s,
    }
    batches = iter(data.train_dataloader())
    next(batches)
    found["first_batch_s"] = time.time() - float(os.environ["BENCHMARK_STARTED"])
    for _ in range(NUM_BATCHES):
        next(batches)
    workers: Any = batches
    own = [_own_mb(worker.pid) for worker in workers._workers]
    peak_mb = _peak_mb()
    return {**found, "peak_mb": peak_mb, "added_mb": peak_mb - before_mb, "worker_mb": max(own)}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _own_mb(pid: int) -> float:
    """Memory of a process that is not shared."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _train(root: Path, layout: str, settings: dict[str, str], folder: Path) -> dict[str, float]:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    limits = [f"trainer.limit_{part}_batches={n}" for part, n in _BATCHES.items()]
    program = [sys.executable, str(ROOT / "train.py"), *_arguments(root, layout), *limits]
    started_s = time.perf_counter()
    done = subprocess.Popen(
        [*program, "trainer.max_epochs=1", f"run_dir={run}"],
        env=settings,
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(done.pid, 0)
    if status:
        raise SystemExit(f"train.py ended with {os.waitstatus_to_exitcode(status)}")
    total_s = time.perf_counter() - started_s
    timing = json.loads((run / "summary.json").read_text())["timing"]
    shutil.rmtree(run)
    return {
        "first_step_s": timing["time_to_first_step_s"],
        "total_s": total_s,
        "total_cpu_s": used.ru_utime + used.ru_stime,
        "program_mb": used.ru_maxrss / 1024,
    }


_BATCHES = {"train": 2, "val": 1, "test": 1}


def _print_table(
    results: Sequence[tuple[str, int, dict[str, float]]], columns: dict[str, str]
) -> None:
    print(f"| layout | images | {' | '.join(columns.values())} | grows with n to the |")
    print("|---" * (3 + len(columns)) + "|")
    before: tuple[str, int, float] = ("", 1, 1.0)
    grown = next(name for name in columns if name.endswith("cpu_s"))  # other programs count less
    for layout, count, found in results:
        growth = ""
        if before[0] == layout:
            ratio = found[grown] / before[2]
            growth = f"{math.log(ratio) / math.log(count / before[1]):.2f}"
        before = (layout, count, found[grown])
        cells = (f"{found[name]:.{1 if name.endswith('_s') else 0}f}" for name in columns)
        print(f"| {layout} | {count} | {' | '.join(cells)} | {growth} |")
    print(flush=True)


if __name__ == "__main__":
    main()
