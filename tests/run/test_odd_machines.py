"""Results do not depend on clock jumps, the order of folder listings or parallel runs."""

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from faults import attempt
from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.run import main
from medvision.run.storage import run_folder

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "experiment=polyp_unet",
    "model.base_channels=2",
    "data.image_size=32",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=2",
)


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the system list every folder in random order."""
    scandir, listdir = os.scandir, os.listdir

    class Shuffled:
        def __init__(self, entries: list[Any]) -> None:
            self.entries = iter(entries)

        def __iter__(self) -> Iterator[Any]:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

        def __enter__(self) -> "Shuffled":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def close(self) -> None:
            pass

    def arrange(seed: int) -> None:
        rng = random.Random(seed)

        def mixed(entries: Any) -> list[Any]:
            found = sorted(entries, key=str)
            rng.shuffle(found)
            return found

        def listed(*path: Any) -> list[Any]:
            return mixed(listdir(*path))

        def scanned(*path: Any) -> Shuffled:
            with scandir(*path) as entries:
                return Shuffled(mixed(entries))

        monkeypatch.setattr(os, "scandir", scanned)
        monkeypatch.setattr(os, "listdir", listed)

    return arrange


def test_the_order_in_which_a_system_lists_files_changes_nothing(
    shuffled: Callable[[int], None],
    make_folder: Callable[..., Path],
    make_class_folder: Callable[..., Path],
) -> None:
    masks, classes = make_folder(20, name="masks"), make_class_folder({"a": 9, "b/c": 9, "d": 3})
    found = []
    for seed in range(4):
        shuffled(seed)
        samples = (index_segmentation(masks).samples, index_classification(classes).samples)
        found.append([[sample.path for sample in part] for part in samples])
    assert [len(part) for part in found[0]] == [20, 21]
    assert all(other == found[0] for other in found)


def numbers(run: Path) -> Any:
    summary = json.loads((run / "summary.json").read_text())
    return [(run / "metrics.csv").read_bytes(), summary["metrics"], summary["dataset"]]


@pytest.mark.slow
def test_a_clock_that_jumps_back_changes_no_number_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder: Callable[..., Path]
) -> None:
    root = make_folder(20)
    monkeypatch.chdir(tmp_path)
    whole = [*SMALL, f"data.root={root}"]
    assert main([*whole, "run_dir=plain"]) == 0
    began, calls = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: began - 1000.0 * next(calls))
    ticks = iter(range(10**9))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # three times the same, then a day before
            late = datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)
            return late if next(ticks) < 3 else late - timedelta(days=1)

    monkeypatch.setattr(run_folder, "datetime", Clock)
    taken = Path("runs/polyp_unet/2026-01-02_03-04-05")
    taken.mkdir(parents=True)
    (taken / "kept.txt").touch()
    for path in root.rglob("*.png"):  # written tomorrow
        os.utime(path, (began + 86_400, began + 86_400))
    assert main(whole) == 0
    (run,) = Path("runs/polyp_unet").glob("2026-01-01*")
    assert numbers(run) == numbers(Path("plain"))
    assert [path.name for path in taken.iterdir()] == ["kept.txt"]


@pytest.mark.slow
def test_two_runs_that_fill_one_cache_at_one_time_have_the_numbers_of_one(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    root, work = make_folder(24), tmp_path / "work"
    work.mkdir()

    def run(name: str) -> int:
        os.environ["MEDVISION_CACHE_DIR"] = str(work / f"cache_{name == 'alone'}")
        return main([*SMALL, f"data.root={root}", f"run_dir={name}"])

    def both() -> int:
        children = {}
        for name in ("a", "b"):
            child = os.fork()
            if child == 0:
                os._exit(run(name))
            children[child] = name
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return max(map(abs, ends))

    assert attempt(lambda: run("alone"), work, work).code == 0
    ended = attempt(both, work, work)
    assert ended.code == 0, ended.err
    assert numbers(work / "a") == numbers(work / "b") == numbers(work / "alone")
    kept = [
        sorted((path.name, path.stat().st_size) for path in (work / name).rglob("*.pixels"))
        for name in ("cache_False", "cache_True")
    ]
    assert kept[0] == kept[1] != []
