"""Many consecutive runs in one process release all their resources."""

import gc
import os
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest

from medvision.run import main

NUM_RUNS = 200
SETTLED = 40
"""Runs after which caches, pools and the allocator hold what they will hold."""

MEMORY_GROWTH = 1.05

EXPERIMENTS = (
    ("experiment=polyp_unet", "model.base_channels=2"),
    ("experiment=brain_mri_cnn", "model.base_channels=2", "data.num_workers=1"),
    ("experiment=chest_xray_cnn", "model.base_channels=2"),
    ("experiment=polyp_unet", "data.root=/nowhere"),
)
"""One of them ends in an error."""


def resident_mb() -> float:
    """Memory that this process uses."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def handles() -> list[str]:
    """Targets of all open file descriptors, without the numbers of pipes and sockets."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()).split(":[")[0])
        except OSError:  # the one that lists them
            continue
    return sorted(found)


def children() -> list[str]:
    """Running child processes."""
    tasks = Path("/proc/self/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts in /proc")
def test_two_hundred_runs_keep_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    small: tuple[str, ...],
) -> None:
    scratch = Path(tempfile.mkdtemp())  # short: names of sockets have at most 107 characters
    request.addfinalizer(partial(shutil.rmtree, scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[list[str], int, list[str], list[str]]] = []
    memory_mb: list[float] = []
    for number in range(NUM_RUNS):
        overrides = EXPERIMENTS[number % len(EXPERIMENTS)]
        assert main([*small, *overrides]) == (2 if "data.root=/nowhere" in overrides else 0)
        if number + 1 >= SETTLED and (number + 1) % SETTLED == 0:
            kept = sorted(path.name for path in scratch.iterdir())
            seen.append((handles(), threading.active_count(), children(), kept))
            memory_mb.append(resident_mb())
    print("MB:", [round(mb) for mb in memory_mb], "threads:", [state[1] for state in seen])
    assert all(state == seen[0] for state in seen)
    assert memory_mb[-1] <= MEMORY_GROWTH * memory_mb[0]
    left = [path for path in tmp_path.rglob("*") if ".tmp" in path.name or path.name[0] == "."]
    assert not left
    assert len(list(tmp_path.glob("runs/*/*/summary.json"))) == NUM_RUNS * 3 // 4
