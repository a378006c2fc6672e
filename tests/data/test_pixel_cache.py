import errno
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from medvision.data import ClassificationData, SegmentationData, pixel_cache, sources
from medvision.data.shards.create import make_shards
from medvision.errors import MedvisionError
from medvision.run.config.store import keys_of
from medvision.types import STAGES

FLIPS = {"HorizontalFlip": {"p": 0.5}, "RandomBrightnessContrast": {"p": 0.5}}
IMAGE, MASK = 32 * 32 * 3, 32 * 32

Found = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(root: Path | str, task: str = "segmentation", **changes: Any) -> Any:
    """Small prepared data module of the shipped configuration."""
    config: Any = keys_of("data", f"folder_{task}")
    config.pop("_target_")
    small = {"seed": 0, "image_size": 32, "batch_size": 4, "num_workers": 0}
    kind = SegmentationData if task == "segmentation" else ClassificationData
    given = {"root": str(root), "train_transforms": FLIPS, **small, **changes}
    data = kind(**{**config, **given})
    data.prepare()
    return data


def batches(data: Any, epochs: int = 2) -> Found:
    """Batches of the training epochs and of validation."""
    found, loader, val = [], data.train_dataloader(), data.val_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        found += [(b["index"], b["image"], b["target"]) for b in loader]
        found += [(b["index"], b["image"], b["target"]) for b in val]
    return found


def same(ours: Found, theirs: Found) -> bool:
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    return len(ours) > 2 and all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of files decoded by loaders of this process."""
    names: list[str] = []

    def spied(real: Callable[..., Any]) -> Callable[..., Any]:
        def spy(data: Any, *targets: Any, where: Any, **options: Any) -> Any:
            names.append(Path(where(targets[0]) if targets else where).name)
            return real(data, *targets, where=where, **options)

        return spy

    for name in ("decode", "decode_target"):
        monkeypatch.setattr(sources, name, spied(getattr(sources, name)))
    return names


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every decoding fail, also in forked loader processes."""

    def refuse(data: Any, *_: Any, where: Any, **options: Any) -> Any:
        raise AssertionError(f"{where} was decoded again")

    for name in ("decode", "decode_target"):
        monkeypatch.setattr(sources, name, refuse)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_batches_are_the_same_and_files_are_decoded_once(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    root = make_folder(16)
    plain = batches(opened(root, decoded_gb=0))
    assert same(batches(opened(root, num_workers=workers)), plain)
    opened(root).dataset("train")  # rows dropped with a short last batch
    for stage in STAGES:
        data = opened(root).dataset(stage)
        for row in range(len(data)):
            data[0, row]
    forbid(monkeypatch)
    assert same(batches(opened(root, num_workers=workers)), plain)
    assert same(batches(opened(root, num_workers=2 - workers)), plain)


def test_the_second_epoch_decodes_nothing(
    make_folder: Callable[..., Path], decoded: list[str], cache: Path
) -> None:
    data = opened(make_folder(13), batch_size=1)
    batches(data, epochs=1)
    num_seen = len(data.tables["train"]) + len(data.tables["val"])
    assert len(decoded) == 2 * num_seen
    batches(data, epochs=2)
    assert len(decoded) == 2 * num_seen
    (pixels,) = cache.glob("pixels/*.pixels")
    assert pixels.stat().st_size == num_seen * (IMAGE + MASK + 20)


def test_classification_images_are_cached_too(
    make_class_folder: Callable[..., Path], decoded: list[str]
) -> None:
    root = make_class_folder({"a": 8, "b": 9})
    plain = batches(opened(root, "classification", decoded_gb=0))
    data = opened(root, "classification", batch_size=1)
    batches(data, epochs=1)
    decoded.clear()
    again = opened(root, "classification")
    assert same(batches(again), plain)
    assert decoded == []


@pytest.mark.parametrize("window", [1, 8])
def test_images_in_shards_are_cached_by_content(
    make_folder: Callable[..., Path],
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    window: int,
) -> None:
    shards = tmp_path / "shards"
    make_shards(make_folder(16), shards, shard_bytes=8000)
    plain = batches(opened(shards, decoded_gb=0, shuffle_shards=window))
    batches(opened(shards, shuffle_shards=window, batch_size=1), epochs=1)
    decoded.clear()
    assert same(batches(opened(shards, shuffle_shards=window)), plain)
    assert decoded == []


def test_a_changed_file_is_decoded_again_even_with_the_same_size_and_time(
    tmp_path: Path,
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for k in range(6):
        image = np.full((32, 32, 3), 10 * k, np.uint8)
        cv2.imwrite(str(tmp_path / f"set/images/{k}.bmp"), image)
        cv2.imwrite(str(tmp_path / f"set/masks/{k}.bmp"), image[..., 0] // 30 * 255)
    data = opened(tmp_path / "set", train_transforms={})
    dataset = data.dataset("train")
    before = dataset[0, 0]
    for name, part in ((data.tables["train"][0].path, "image"), (None, "target")):
        path = tmp_path / "set" / (name or data.tables["train"][0].target)
        state, content = path.stat(), bytearray(path.read_bytes())
        content[-20:] = bytes(255 - value for value in content[-20:])
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size
        assert not np.array_equal(dataset[0, 0][part], before[part])


@pytest.mark.parametrize("damage", ["gone", "broken", "sizes"])
def test_unreadable_files_raise_the_same_errors_as_without_a_cache(
    make_folder: Callable[..., Path], damage: str
) -> None:
    root = make_folder(12)
    data, plain = opened(root), opened(root, decoded_gb=0)
    cached, sample = data.dataset("train"), data.tables["train"][0]
    cached[0, 0]
    if damage == "gone":
        (root / sample.target).unlink()
        (root / sample.path).write_bytes(b"text")  # named first, as always
    elif damage == "broken":
        (root / sample.target).write_bytes((root / sample.target).read_bytes()[:-30])
    else:
        cv2.imwrite(str(root / sample.target), np.zeros((4, 6), np.uint8))
    with pytest.raises(MedvisionError) as ours:
        cached[0, 0]
    with pytest.raises(MedvisionError) as theirs:
        plain.dataset("train")[0, 0]
    assert str(ours.value) == str(theirs.value)
    (root / sample.path).unlink()
    with pytest.raises(MedvisionError, match="cannot read the file"):
        cached[0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 16},
        {"in_channels": 1},
        {"value_range": (0, 30000)},
        {"class_names": ["none", "a", "b"], "num_classes": 3},
        {"color_map": [(0, 0, 0), (1, 1, 1)]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_option_that_affects_pixels_is_part_of_the_key(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for k in range(6):
        image = rng.integers(0, 65536, (40, 40), np.uint16)
        cv2.imwrite(str(tmp_path / f"set/images/{k}.png"), image)
        cv2.imwrite(str(tmp_path / f"set/masks/{k}.png"), (image > 30000).astype(np.uint8))
    root = tmp_path / "set"
    batches(opened(root), epochs=1)
    assert same(batches(opened(root, **changes)), batches(opened(root, decoded_gb=0, **changes)))
    assert same(batches(opened(root)), batches(opened(root, decoded_gb=0)))


def test_other_decoder_versions_do_not_use_the_cache(
    make_folder: Callable[..., Path], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(12)
    opened(root).dataset("train")[0, 0]
    for name in ("FORMAT", "cv2.__version__", "PIL.__version__"):
        decoded.clear()
        monkeypatch.setattr(f"medvision.data.pixel_cache.{name}", "another")
        data = opened(root).dataset("train")
        assert (data[0, 0]["index"], len(decoded)) == (0, 2)
        assert (data[0, 0]["index"], len(decoded)) == (0, 2)


def test_a_size_limit_that_is_too_small_caches_a_part_with_a_note(
    make_folder: Callable[..., Path], decoded: list[str], cache: Path
) -> None:
    root = make_folder(12)
    few, whole = (count * (IMAGE + MASK + 36) / 1e9 for count in (3, 12))
    plain = batches(opened(root, decoded_gb=0))
    data = opened(root, decoded_gb=few)
    assert data.notes[-1] == (
        "only 3 of 12 decoded images fit into 1.24e-05 GB, every epoch decodes the others again;"
        f" data.decoded_gb={1.005 * whole:.3g} fits all"
    )
    decoded.clear()
    assert same(batches(data), plain)
    assert sum(p.stat().st_size for p in cache.glob("pixels/*")) == round(few * 1e9)
    decoded.clear()
    batches(data, epochs=1)
    num_seen = 4 * (len(data.tables["train"]) // 4) + len(data.tables["val"])
    assert len(decoded) // 2 == num_seen - 3
    assert not any("decoded images" in note for note in opened(root).notes)


def test_a_full_disk_is_noted_before_the_training(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    half = 6 * (IMAGE + MASK + 36)
    monkeypatch.setattr(pixel_cache.PixelStore, "free_bytes", lambda self: half)
    assert opened(make_folder(12)).notes[-1] == (
        f"only 6 of 12 decoded images fit on the disk of {cache}/pixels, every epoch decodes the"
        " others again; free some space, or set MEDVISION_CACHE_DIR to another disk"
    )


def test_a_disk_that_fills_up_does_not_end_the_training(
    make_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = make_folder(12)
    plain = batches(opened(root, decoded_gb=0))
    left, real = [3 * (IMAGE + MASK)], os.pwrite

    def pwrite(number: int, data: Any, start: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(number, bytes(data)[: left[0]], start)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    with caplog.at_level(logging.WARNING):
        assert same(batches(opened(root)), plain)
    (record,) = caplog.records
    assert record.getMessage() == (
        "no more decoded images can be cached, every epoch decodes the others:"
        " [Errno 28] No space left on device"
    )


def test_a_read_only_folder_is_noted_and_does_not_end_the_training(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_folder(12)
    plain = batches(opened(root, decoded_gb=0))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "file"))
    data = opened(root)
    assert data.notes[-1].startswith("decoded images cannot be cached, every epoch decodes the")
    assert data.notes[-1].endswith(
        "set MEDVISION_CACHE_DIR to a writable folder, or data.decoded_gb=0"
    )
    assert same(batches(data), plain)


def test_a_system_without_locks_decodes_in_every_epoch(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    root = make_folder(12)
    monkeypatch.setattr(pixel_cache, "CAN_KEEP", False)
    data = opened(root)
    assert data.notes[-1].startswith("decoded images cannot be cached on this system")
    assert same(batches(data), batches(opened(root, decoded_gb=0)))
    assert not (cache / "pixels").exists()


def test_phantoms_and_a_size_limit_of_zero_cache_nothing(
    make_folder: Callable[..., Path], cache: Path
) -> None:
    off = opened(make_folder(12), decoded_gb=0)
    config: Any = keys_of("data", "folder_segmentation")
    config.pop("_target_")
    small = {"seed": 0, "image_size": 32, "num_images": 12, "num_workers": 0}
    phantoms = SegmentationData(**{**config, **small})
    phantoms.prepare()
    for data in (off, phantoms):
        batches(data, epochs=1)
        assert data.pixels is None
    assert not (cache / "pixels").exists()


def test_a_restored_split_uses_the_cache_of_the_training(
    make_folder: Callable[..., Path], decoded: list[str]
) -> None:
    root = make_folder(12)
    first = opened(root)
    for row in range(len(first.tables["test"])):
        first.dataset("test")[0, row]
    decoded.clear()
    config: Any = keys_of("data", "folder_segmentation")
    config.pop("_target_")
    again = SegmentationData(**{**config, "root": str(root), "seed": 0, "image_size": 32})
    again.restore(first.samples)
    assert len(again.dataset("test")[0, 0]["image"]) == 32
    assert decoded == []
    sample = again.tables["test"][0]
    again.read_at_network_size(sample.path, sample.target)  # of the files
    assert decoded == [Path(sample.path).name, Path(sample.target).name]


def test_a_dataset_is_handed_to_other_processes_without_open_files(
    make_folder: Callable[..., Path], decoded: list[str]
) -> None:
    dataset = opened(make_folder(12)).dataset("train")
    first = dataset[0, 0]
    decoded.clear()
    other = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(other[0, 0]["image"], first["image"])
    assert decoded == []


def test_a_damaged_record_is_decoded_and_written_again(
    make_folder: Callable[..., Path], decoded: list[str], cache: Path
) -> None:
    dataset = opened(make_folder(12), train_transforms={}).dataset("train")
    first = dataset[0, 0]
    (path,) = cache.glob("pixels/*.pixels")
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    decoded.clear()
    assert np.array_equal(dataset[0, 0]["image"], first["image"])
    assert len(decoded) == 2
    assert np.array_equal(dataset[0, 0]["image"], first["image"])
    assert len(decoded) == 2
    assert path.stat().st_size == len(content)


def test_a_missing_home_folder_disables_the_cache_with_a_note(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(kind: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("medvision.data.datamodule.own_folder", no_home)
    data = opened(make_folder(12))
    assert data.pixels is None
    start = "decoded images cannot be cached (Could not determine home directory.)"
    assert any(note.startswith(start) for note in data.notes)
    assert len(batches(data, epochs=1)) > 1
