"""Shared parts of the peers' input pipelines: the files and the clock."""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path

IMAGE_PX, BATCH, DEGREES = 256, 8, 15
"""Size of what comes out, images of a batch, and how far they are turned at most."""

Pairs = list[tuple[str, str]]


def arguments(*modes: str) -> argparse.Namespace:
    """``data``: a folder of images and masks of one stem; ``mode``: one of these."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--mode", choices=modes, default=modes[0])
    parser.add_argument("--scratch", type=Path, help="for a cache on the disk; empty")
    return parser.parse_args()


def pairs_in(data: Path) -> Pairs:
    """Paths of each image and its mask, in the order of their names."""
    mask_of = {path.stem: str(path) for path in (data / "masks").iterdir()}
    images = sorted((data / "images").iterdir())
    return [(str(path), mask_of[path.stem]) for path in images]


def report(epoch: Callable[[], Iterable[int]], *, warm_up: Callable[[], Iterable[int]]) -> None:
    """Print images per second, of the clock and of a core, as JSON.

    Args:
        epoch: Gives the number of images of each batch; measured.
        warm_up: The same; what is slow the first time. A whole epoch where that fills a cache.
    """
    for _ in warm_up():
        pass
    started, before = time.perf_counter(), core_seconds()
    seen = sum(epoch())
    elapsed, core = time.perf_counter() - started, core_seconds() - before
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"of a core": seen / core, "of the clock": seen / elapsed, "MB": peak_mb}))


def core_seconds() -> float:
    """CPU seconds of this process, including all threads and system time."""
    return sum(os.times()[:2])
