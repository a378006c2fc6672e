"""Pipes, sockets, devices and broken links where a file is expected: one line, and no waiting."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from medvision.audit.dataset import scan
from medvision.comparison.runs import read_run
from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.readers.decode import image_size, read_bytes
from medvision.data.reading import Reading
from medvision.data.shards.create import make_shards
from medvision.data.sources import FolderSource, Source, open_source
from medvision.errors import MedvisionError
from medvision.files import check_stored, open_regular, read_plain
from medvision.inference.engine import OnnxEngine
from medvision.inference.load import load_network
from medvision.models.matching import read_tensors
from medvision.reports.page import png_picture
from medvision.reports.run_files import RunFiles
from medvision.run.evaluation.evaluate import evaluate_run
from medvision.run.storage import test_ledger
from medvision.run.storage.resume import InterruptedRun, find_state
from medvision.run.storage.run_folder import RunFolder, is_own_run
from medvision.run.storage.saved_run import StoredRun, read_history
from medvision.run.training.build import read_checkpoint

WAIT_S = 10.0
"""Longest time of a test, because reading from a pipe without a writer never ends."""


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End what waits, with an error."""

    def rings(signum: int, frame: Any) -> None:
        raise AssertionError("it waits for a special file")

    before = signal.signal(signal.SIGALRM, rings)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def nothing(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


KINDS = [pipe, device, bound_socket, nothing]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def special(request: pytest.FixtureRequest) -> Callable[[Path], Path]:
    """Replace a file with a special file; nothing may block afterwards."""

    def put(path: Path) -> Path:
        path.unlink(missing_ok=True)
        request.param(path)
        signal.setitimer(signal.ITIMER_REAL, WAIT_S)
        return path

    return put


READERS: dict[str, Callable[[Path], object]] = {
    "x.png": read_bytes,
    "y.png": image_size,
    "z.png": lambda path: png_picture(path, alt=""),
    "splits.csv": read_splits,
    "metrics.csv": lambda path: read_history(path.parent),
    "a.json": read_plain,
    "a.yaml": read_plain,
    "a.ckpt": lambda path: read_checkpoint(path, max_epochs=9),
    "b.ckpt": check_stored,
    "c.ckpt": load_network,
    "a.safetensors": load_network,
    "b.safetensors": lambda path: read_tensors(path, where="model.weights"),
    "c.pt": lambda path: read_tensors(path, where="model.weights"),
    "a.onnx": OnnxEngine,
    "summary.json": lambda path: RunFiles.read(path.parent),
    "audit.csv": open_regular,
}
"""Function that reads the file of each name."""


@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_a_special_file(
    tmp_path: Path, special: Callable[[Path], Path], name: str
) -> None:
    path = special(tmp_path / name)
    with pytest.raises((MedvisionError, OSError)) as error:
        READERS[name](path)
    assert "\n" not in str(error.value)


MASKS = Reading(num_classes=2)


def read_all(source: Source) -> None:
    """List, check and read the files of a source."""
    samples = source.index().samples
    source.check(samples, on_error="fail")
    source.read(samples[0])


@pytest.mark.parametrize("name", ["images/case_03.png", "masks/case_03.png", "splits.csv"])
def test_a_data_set_with_a_special_file_is_refused_in_one_line(
    make_folder: Callable[..., Path], special: Callable[[Path], Path], name: str
) -> None:
    root = make_folder()
    special(root / name)
    with pytest.raises(MedvisionError) as error:
        read_all(FolderSource(root, listing=index_segmentation, channels=3, reading=MASKS))
    assert name in str(error.value)
    if name == "splits.csv":
        with pytest.raises(MedvisionError, match=r"splits\.csv"):
            scan(root)


def test_a_class_folder_with_a_special_file_is_refused(
    make_class_folder: Callable[..., Path], special: Callable[[Path], Path]
) -> None:
    root = make_class_folder({"a": 3, "b": 3})
    special(root / "a" / "case_01.png")
    with pytest.raises(MedvisionError, match=r"case_01\.png"):
        read_all(FolderSource(root, listing=index_classification, channels=1, reading=Reading()))


@pytest.mark.parametrize("name", ["shards.json", "table.npz", "facts.npz", "shard-000000.tar"])
def test_shards_with_a_special_file_are_refused(
    make_folder: Callable[..., Path], tmp_path: Path, special: Callable[[Path], Path], name: str
) -> None:
    make_shards(make_folder(4), tmp_path / "shards", shard_bytes=10**6)
    special(tmp_path / "shards" / name)
    options: dict[str, Any] = {"task": "segmentation", "cache_gb": 1, "window": None}
    options |= {"channels": 3, "reading": MASKS, "listing": index_segmentation}
    with pytest.raises(MedvisionError, match=name.replace(".", r"\.")):
        read_all(open_source(tmp_path / "shards", **options))


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "summary.json", "splits.csv", "metrics.csv", "environment.json", "best.ckpt"],
)
def test_a_run_folder_with_a_special_file_is_refused_or_read_without_it(
    finished: Path,
    tmp_path: Path,
    special: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    stop = MedvisionError("checked before anything is computed")
    monkeypatch.setattr("medvision.run.evaluation.evaluate.load_network", Mock(side_effect=stop))
    run = Path(shutil.copytree(finished, tmp_path / "run", copy_function=os.link))
    special(run / "checkpoints" / name if name == "best.ckpt" else run / name)
    for read in (
        StoredRun.read,
        InterruptedRun.read,
        read_run,
        RunFiles.read,
        find_state,
        read_history,
        is_own_run,
        lambda path: RunFolder(path).read_summary(),
        lambda path: RunFolder(path).note_part({}),
        evaluate_run,
    ):
        try:
            read(run)
        except (MedvisionError, OSError) as error:
            assert "\n" not in str(error)  # noqa: PT017  some read the other files


def test_a_ledger_that_is_a_special_file_is_refused(
    tmp_path: Path, special: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    special(tmp_path / "runs" / "test_ledger.csv")
    if (tmp_path / "runs" / "test_ledger.csv").exists():
        with pytest.raises(MedvisionError, match="cannot read the file"):
            test_ledger.check_ledger()


def test_a_file_may_be_no_larger_than_its_reader_takes(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(3_000_000_000)  # takes no room on the disk
    with pytest.raises(MedvisionError, match="3000 MB are more than 2000 MB"):
        read_bytes(tmp_path / "large.png")
    with (tmp_path / "large.ckpt").open("wb") as stream:
        stream.truncate(40_000_000_000)
    with pytest.raises(MedvisionError, match="cannot be read as a checkpoint"):
        load_network(tmp_path / "large.ckpt")
