"""Sets with too many files to open before the start, here a dozen."""

import gc
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.data.loading import datasets as loader_process
from medvision.data.loading.datasets import SampleDataset, start_worker
from medvision.data.loading.transforms import Transform
from medvision.data.reading import Reading
from medvision.data.sources import FolderSource
from medvision.data.validation import validate as checks
from medvision.data.validation.validate import CheckResult, check_files
from medvision.errors import MedvisionError

COUNT = 12


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(checks, "NUM_SAMPLED", 4)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for k in range(COUNT):
        image = rng.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"set/images/{k:02d}.png"), image)
        cv2.imwrite(str(tmp_path / f"set/masks/{k:02d}.png"), image[..., 0] // 128 * 255)
    return tmp_path / "set"


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for k in range(COUNT):
        path = tmp_path / f"set/{'ab'[k % 2]}/{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), 20 * k, np.uint8))
    return tmp_path / "set"


def check(root: Path, **options: Any) -> CheckResult:
    options = {"max_decoded": 2, "max_headers": 5, **options}
    if (root / "masks").is_dir():
        samples = index_segmentation(root).samples
        return check_files(root, samples, Reading(num_classes=2), **options)
    return check_files(root, index_classification(root).samples, Reading(), **options)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of opened files."""
    names: list[str] = []
    real, real_descriptor = Path.open, os.open

    def spy(self: Path, *args: Any, **kwargs: Any) -> Any:
        names.append(self.name)
        return real(self, *args, **kwargs)

    def descriptor_spy(path: Any, *args: Any, **kwargs: Any) -> int:
        names.append(Path(path).name)
        return real_descriptor(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", spy)
    monkeypatch.setattr(os, "open", descriptor_spy)
    return names


def test_only_a_sample_of_the_headers_is_read_and_a_note_says_what_is_unknown(
    classes: Path, opened: list[str]
) -> None:
    samples = index_classification(classes).samples
    opened.clear()  # a few were opened to see if a class holds masks
    result = check_files(classes, samples, Reading(), max_decoded=2, max_headers=5)
    assert len([name for name in opened if name.endswith(".png")]) == 4
    assert result.properties is None
    assert len(result.samples) == len(list(result.lines())) == COUNT
    (note,) = result.notes
    assert note.startswith("very large data set of 12 images: only the headers of 4 random images")
    assert (
        "ends the run, with its name, when it is read (data.on_error=skip cannot skip it)" in note
    )
    assert "the fingerprint covers names, and sizes of these 4 files only" in note
    assert "near-duplicates were not searched; `medvision audit` reads all" in note


@pytest.mark.parametrize("kind", ["pairs", "classes"])
def test_the_fingerprint_holds_names_and_the_sizes_of_the_sample(
    kind: str, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(kind)
    result = check(root)
    sized = [line for line in result.lines() if line.rpartition("\0")[2].isdigit()]
    assert len(sized) == 4
    for line in sized:
        path, target, *sizes = line.split("\0")
        names = [path, target] if kind == "pairs" else [path]
        assert sizes == [str((root / name).stat().st_size) for name in names]
    plain = {f"{s.path}\0{s.target}" for s in result.samples}
    assert {"\0".join(line.split("\0")[:2]) for line in result.lines()} == plain
    whole = "".join(f"{line}\n" for line in sorted(result.lines()))
    assert result.fingerprint == hashlib.sha256(whole.encode()).hexdigest()
    assert check(root).fingerprint == result.fingerprint


def test_the_sample_is_the_same_at_every_start(classes: Path, opened: list[str]) -> None:
    check(classes)
    first = sorted(opened)
    opened.clear()
    check(classes)
    assert sorted(opened) == first


def test_a_damaged_file_of_the_sample_is_an_error_with_the_number_of_checked_files(
    classes: Path,
) -> None:
    for path in classes.rglob("*.png"):
        path.write_bytes(b"text")
    message = r"cannot use 4 of 4 checked images \(of 12\): .*not an image in a supported format"
    with pytest.raises(MedvisionError, match=message):
        check(classes)


def test_skip_excludes_the_damaged_files_of_the_sample(classes: Path) -> None:
    sized = [line.split("\0")[0] for line in check(classes).lines() if line[-1].isdigit()]
    (classes / sized[0]).write_bytes(b"text")
    result = check(classes, on_error="skip")
    assert [path for path, _ in result.skipped] == sized[:1]
    assert len(result.samples) == len(list(result.lines())) == COUNT - 1
    assert sized[0] not in set(result.samples.paths)
    assert result.notes[0].startswith("SKIPPED 1 of 12 images")


def test_files_read_by_an_audit_are_all_known(classes: Path) -> None:
    whole = check(classes, max_decoded=None)
    again = check(classes)
    assert again.properties is not None
    assert again.fingerprint == whole.fingerprint
    assert again.notes == []


def test_names_in_a_csv_are_looked_up_in_folder_listings(
    classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (classes / "more").mkdir()
    cv2.imwrite(str(classes / "more/x.png"), np.zeros((8, 8), np.uint8))
    paths = [f"{'ab'[k % 2]}/{k:02d}.png" for k in range(COUNT)] + ["more/x.png"]
    (classes / "splits.csv").write_text("path,target\n" + "".join(f"{p},a\n" for p in paths[:-1]))
    asked: list[Path] = []
    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: asked.append(self) or real(self))
    with pytest.raises(MedvisionError, match="expected at least 2 classes, found only a"):
        index_classification(classes)
    assert not [path for path in asked if path.suffix == ".png"]
    with (classes / "splits.csv").open("a") as stream:
        stream.write("b/none.png,b\nnowhere/none.png,b\n")
    message = r"cannot find 2 listed files in .*: b/none\.png, nowhere/none\.png"
    with pytest.raises(MedvisionError, match=message):
        index_classification(classes)


def dataset(root: Path) -> SampleDataset:
    source = FolderSource(root, channels=3, reading=Reading(num_classes=2))
    transform = Transform(size_px=8, transforms={}, key="data.eval_transforms")
    samples = index_segmentation(root).samples
    return SampleDataset(samples=samples, source=source, transform=transform, seed=0)


def test_a_file_found_damaged_while_training_is_named(pairs: Path) -> None:
    data = dataset(pairs)
    (pairs / "images/03.png").write_bytes(b"text")
    (pairs / "masks/04.png").unlink()
    cv2.imwrite(str(pairs / "masks/05.png"), np.zeros((4, 6), np.uint8))
    with pytest.raises(MedvisionError, match=r"^not an image.* \(.*set/images/03\.png\)"):
        data[0, 3]
    with pytest.raises(MedvisionError, match=r"^cannot read the file.* \(.*set/masks/04\.png\)"):
        data[0, 4]
    message = r"^the mask is 6 x 4 pixels .*images/05\.png is 8 x 8 \(.*set/masks/05\.png\)"
    with pytest.raises(MedvisionError, match=message):
        data[0, 5]


def test_a_loader_process_does_not_write_to_the_objects_of_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Garbage collection would write to each object and copy its memory page."""
    monkeypatch.setattr(loader_process.signal, "pthread_sigmask", lambda *_: None)
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    threads, frozen = cv2.getNumThreads(), gc.get_freeze_count()
    try:
        start_worker(0)
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        if frozen:  # as the suite started
            gc.freeze()
        cv2.setNumThreads(threads)
