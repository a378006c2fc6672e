import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from medvision.data import ClassificationData, ImageData, SegmentationData
from medvision.data.discovery.index import choose_task, index_segmentation
from medvision.data.discovery.splits_csv import write_splits
from medvision.data.reading import Reading
from medvision.data.shards import create as shard_store
from medvision.data.shards.create import Made, make_shards
from medvision.data.validation.validate import check_files
from medvision.errors import MedvisionError
from medvision.run.config.store import keys_of
from medvision.types import STAGES

MODULES = {"segmentation": SegmentationData, "classification": ClassificationData}


def module(task: str, root: Path | str, **changes: Any) -> ImageData:
    """Small data module of the shipped configuration."""
    shipped = keys_of("data", f"folder_{task}")
    shipped.pop("_target_")
    small = {"seed": 0, "image_size": 32, "batch_size": 4, "num_workers": 0}
    return MODULES[task](**{**shipped, "root": str(root), **small, **changes})


def prepared(task: str, root: Path | str, **changes: Any) -> ImageData:
    data = module(task, root, **changes)
    data.prepare()
    return data


def shards(root: Path, **options: Any) -> Made:
    return make_shards(root, root.with_name("shards"), **{"shard_bytes": 20_000, **options})


def assert_same(plain: ImageData, packed: ImageData) -> None:
    """Check that a run gets the same data from shards as from their folder."""
    assert packed.fingerprint == plain.fingerprint
    assert packed.notes == plain.notes
    assert packed.given_groups == plain.given_groups
    assert list(packed.table_of_splits()) == list(plain.table_of_splits())
    for stage in STAGES:
        assert packed.split_fingerprint(stage) == plain.split_fingerprint(stage)
        assert packed.source.missing(packed.tables[stage]) == []
    assert plain.properties is not None
    assert packed.properties is not None
    columns = [(plain.properties, packed.properties)]
    if plain.properties.mask is not None and packed.properties.mask is not None:
        columns.append((plain.properties.mask, packed.properties.mask))
    for one, other in columns:
        for field in fields(one):
            if field.name != "mask":
                a, b = getattr(one, field.name), getattr(other, field.name)
                assert np.array_equal(a, b), field.name
                assert a.dtype == b.dtype
    assert plain.near_duplicates is not None
    assert packed.near_duplicates is not None
    assert np.array_equal(plain.near_duplicates.groups, packed.near_duplicates.groups)
    for kind in ("train", "val", "test"):
        loaders = [getattr(data, f"{kind}_dataloader")() for data in (plain, packed)]
        for _ in range(2 if kind == "train" else 1):
            for a, b in zip(*loaders, strict=True):
                assert a.keys() == b.keys()
                assert all(torch.equal(a[key], b[key]) for key in a)
            for loader in loaders:
                loader.sampler.set_epoch(1)


FLIP = {"train_transforms": {"HorizontalFlip": {"p": 0.5}}}


def test_shards_train_as_the_folder_with_masks_does(make_folder: Callable[..., Path]) -> None:
    root = make_folder(30)
    made = shards(root)
    assert made.manifest.task == "segmentation"
    assert len(made.manifest.shards) > 3
    assert_same(prepared("segmentation", root, **FLIP), prepared("segmentation", made.out, **FLIP))


@pytest.mark.parametrize(
    "protocol",
    [
        "grouped",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("official", "merged")),
    ],
)
def test_shards_train_as_the_folder_of_classes_does(
    make_class_folder: Callable[..., Path], protocol: str
) -> None:
    root = make_class_folder({"sound": 25, "ill": 20})
    made = shards(root)
    assert made.manifest.class_names == ("ill", "sound")
    options = {"protocol": protocol, "sampler": "balanced", **FLIP}
    plain = prepared("classification", root, **options)
    assert_same(plain, prepared("classification", made.out, **options))


def test_a_given_split_is_kept_in_separate_shards(
    make_class_folder: Callable[..., Path],
) -> None:
    root = make_class_folder({f"{s}/{c}": 9 for s in ("train", "val", "test") for c in "ab"})
    made = shards(root)
    plain, packed = prepared("classification", root), prepared("classification", made.out)
    assert_same(plain, packed)
    table = packed.source.stored.table
    used = {s: set(table.shard[table.rows_of(packed.tables[s].paths)].tolist()) for s in STAGES}
    assert not used["train"] & (used["val"] | used["test"])
    assert not used["val"] & used["test"]


def test_a_csv_of_the_folder_keeps_its_split_and_groups(make_folder: Callable[..., Path]) -> None:
    root = make_folder(24)
    rows = [
        replace(sample, split=STAGES[number % 3], group=f"patient {number % 12 // 2}, ä")
        for number, sample in enumerate(index_segmentation(root).samples)
    ]
    write_splits(root / "splits.csv", rows[:20])
    made = shards(root)
    assert "splits.csv does not list 4 images" in made.manifest.notes[0]
    assert_same(prepared("segmentation", root), prepared("segmentation", made.out))


@pytest.mark.slow
def test_groups_and_an_earlier_split_apply_to_shards(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder(30)
    made = shards(root)
    pattern = {"group_pattern": r"case_(\d)\d"}
    plain = prepared("segmentation", root, **pattern)
    assert_same(plain, prepared("segmentation", made.out, **pattern))
    earlier = tmp_path / "earlier.csv"
    write_splits(earlier, list(plain.table_of_splits())[:25])
    kept = {"splits": str(earlier), "protocol": "grouped"}
    assert_same(prepared("segmentation", root, **kept), prepared("segmentation", made.out, **kept))


def test_groups_given_at_creation_are_stored_in_the_shards(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder(30)
    pattern = r"case_(\d)\d"
    plain = prepared("segmentation", root, group_pattern=pattern)
    assert_same(plain, prepared("segmentation", shards(root, group_pattern=pattern).out))


def test_a_restored_split_reads_from_shards(make_folder: Callable[..., Path]) -> None:
    root = make_folder(20)
    made = shards(root)
    plain = prepared("segmentation", root)
    again = module("segmentation", made.out)
    again.restore(plain.table_of_splits())
    first = next(iter(again.test_dataloader()))
    assert torch.equal(first["image"], next(iter(plain.test_dataloader()))["image"])
    again.read_again()
    assert again.split_fingerprint("test") == plain.split_fingerprint("test")
    gone = replace(plain.tables["test"][0], path="images/gone.png")
    again.restore([gone, *plain.tables["train"]])
    assert again.source.missing(again.tables["test"]) == ["images/gone.png", gone.target]
    with pytest.raises(MedvisionError, match=r"images/gone\.png is not in the shards") as caught:
        next(iter(again.test_dataloader()))
    assert str(caught.value) == (
        f"images/gone.png is not in the shards ({made.out});"
        " create shards of the folder that contains it"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it closes no file
def test_shards_contain_the_file_bytes_as_read_by_webdataset(
    make_folder: Callable[..., Path], make_class_folder: Callable[..., Path], tmp_path: Path
) -> None:
    webdataset = pytest.importorskip("webdataset")
    root = make_folder(12)
    (root / "images" / "case_00.png").rename(root / "images" / "case_00.PNG")
    made = shards(root)
    found = {}
    for part in made.manifest.shards:
        stream = webdataset.WebDataset(str(made.out / part.name), shardshuffle=False)
        found |= {sample["__key__"]: sample for sample in stream}
    samples = index_segmentation(root).samples
    assert sorted(found) == [f"{row:09d}" for row in range(12)]
    for row, sample in enumerate(samples):
        stored = found[f"{row:09d}"]
        assert stored["png"] == (root / sample.path).read_bytes()
        assert stored["mask.png"] == (root / sample.target).read_bytes()
    classes = make_class_folder({"ill": 3, "sound": 2}, name="classes")
    packed = make_shards(classes, tmp_path / "packed", shard_bytes=10**6)
    labels = [
        sample["cls"]
        for sample in webdataset.WebDataset(
            str(packed.out / packed.manifest.shards[0].name), shardshuffle=False
        )
    ]
    assert sorted(labels) == [b"0"] * 3 + [b"1"] * 2


def test_the_same_folder_gives_the_same_shards(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder(12)
    made = [make_shards(root, tmp_path / name, shard_bytes=10_000).out for name in "ab"]
    names = sorted(path.name for path in made[0].iterdir())
    assert names == sorted(path.name for path in made[1].iterdir())
    for name in names:
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes()


def test_shards_are_plain_tar_files_within_the_size_limit(make_folder: Callable[..., Path]) -> None:
    made = shards(make_folder(30), shard_bytes=30_000)
    members = 0
    for part in made.manifest.shards:
        assert part.num_bytes == (made.out / part.name).stat().st_size <= 30_000
        with tarfile.open(made.out / part.name, "r:") as archive:
            members += len(archive.getmembers())
    assert members == 60


def test_the_order_in_shards_is_drawn_once_and_contains_every_image_once(
    make_class_folder: Callable[..., Path],
) -> None:
    made = shards(make_class_folder({"a": 30, "b": 30}), shard_bytes=10**7)
    with tarfile.open(made.out / "shard-000000.tar") as archive:
        rows = [int(name[:9]) for name in archive.getnames() if not name.endswith(".cls")]
    assert sorted(rows) == list(range(60))
    assert rows == np.random.default_rng(0).permutation(60).tolist()


def test_unusable_files_fail_or_are_skipped(make_folder: Callable[..., Path]) -> None:
    root = make_folder(12)
    (root / "images" / "case_03.png").write_bytes(b"no picture")
    with pytest.raises(MedvisionError, match=r"not an image in a supported format"):
        shards(root)
    assert sorted(path.name for path in root.parent.iterdir()) == ["set"]
    made = shards(root, on_error="skip")
    assert made.manifest.num_images == 11
    assert [path for path, _ in made.skipped] == ["images/case_03.png"]
    plain = prepared("segmentation", root, on_error="skip")
    assert_same(plain, prepared("segmentation", made.out))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_creation_leaves_no_files(
    make_folder: Callable[..., Path], tmp_path: Path, stop: Any
) -> None:
    root = make_folder(12)

    def advance(what: str, done: int, _: int) -> None:
        if (what, done) == ("write", 7):
            raise stop

    before = sorted(tmp_path.rglob("*"))
    expected = KeyboardInterrupt if stop is KeyboardInterrupt else MedvisionError
    with pytest.raises(expected) as caught:
        make_shards(root, tmp_path / "new/deep/out", shard_bytes=9_000, advance=advance)
    assert sorted(tmp_path.rglob("*")) == before
    if expected is MedvisionError:
        assert str(caught.value) == (
            "cannot write the shards: No space left on device"
            f" ({tmp_path / 'new/deep/out'}); check space and permissions"
        )
        assert caught.value.exit_code == 3


def test_files_of_a_killed_process_are_replaced(make_folder: Callable[..., Path]) -> None:
    root = make_folder(12)
    left = root.with_name(".shards.partial")
    left.mkdir()
    (left / "shard-000000.tar").write_bytes(b"half")
    made = shards(root)
    assert sorted(path.name for path in root.parent.iterdir()) == ["set", "shards"]
    assert prepared("segmentation", made.out).samples


def test_a_file_that_changes_during_creation_is_reported(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(12)
    monkeypatch.setattr(shard_store, "read_content", lambda *_: b"other bytes")
    with pytest.raises(MedvisionError, match="the file has changed since it was checked"):
        shards(root)
    assert not root.with_name("shards").exists()


def test_invalid_destinations_are_refused(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder(12)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    made = shards(root)
    for given, out, words in (
        (root, root / "out", "the shards would be inside the data set"),
        (root, tmp_path / "full", "exists and is not empty"),
        (root, Path("s3://bucket/set"), "shards can only be written to a local folder"),
        (made.out, tmp_path / "new", "the folder already contains shards"),
        (tmp_path / "nowhere", tmp_path / "new", "the data folder does not exist"),
    ):
        with pytest.raises(MedvisionError, match=words):
            make_shards(given, out, shard_bytes=10**6)


def test_an_empty_folder_is_filled(make_folder: Callable[..., Path]) -> None:
    root = make_folder(12)
    root.with_name("shards").mkdir()
    assert shards(root).manifest.num_images == 12


def test_the_task_is_derived_from_the_layout(
    make_folder: Callable[..., Path], make_class_folder: Callable[..., Path], tmp_path: Path
) -> None:
    assert choose_task(make_folder(3)).task == "segmentation"
    assert choose_task(make_class_folder({"a": 2, "b": 2}, name="classes")).task == "classification"
    table = tmp_path / "listed"
    table.mkdir()
    (table / "splits.csv").write_text("path,target\na.png,ill\n")
    assert choose_task(table).task == "classification"
    (table / "splits.csv").write_text("path,target\na.png,mask/a.png\n")
    assert choose_task(table).task == "segmentation"


def test_shards_of_another_task_or_reading_are_refused(make_folder: Callable[..., Path]) -> None:
    made = shards(make_folder(12))
    with pytest.raises(MedvisionError) as caught:
        prepared("classification", made.out)
    assert str(caught.value) == (
        f"expected shards for classification, got shards for segmentation ({made.out});"
        " choose a segmentation experiment, or another data.root"
    )
    with pytest.raises(MedvisionError) as caught:
        prepared("segmentation", made.out, value_range=[0, 4000])
    assert str(caught.value) == (
        "the shards were created with value_range null, got (0, 4000) (data.value_range);"
        " create them again with medvision data shard --value-range, or change the key"
    )


def test_deep_files_and_colours_are_read_as_in_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "deep"
    colours = [(0, 0, 0), (255, 0, 0)]
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        deep = rng.integers(0, 5000, (20, 24), dtype=np.uint16)
        cv2.imwrite(str(root / f"images/{number}.png"), deep)
        mask = np.zeros((20, 24, 3), np.uint8)
        mask[4 : 10 + number % 5, 3:9, 2] = 255
        cv2.imwrite(str(root / f"masks/{number}.png"), mask)
    reading: dict[str, Any] = {"value_range": (0.0, 4000.0), "color_map": colours}
    made = shards(root, reading=Reading(num_classes=len(colours), **reading))
    reading = {"value_range": [0, 4000], "color_map": [list(colour) for colour in colours]}
    assert_same(
        prepared("segmentation", root, **reading), prepared("segmentation", made.out, **reading)
    )


@pytest.mark.parametrize(("max_decoded", "max_headers"), [(5, 50), (5, 10)])
def test_very_large_sets_are_checked_by_header_or_name_as_in_the_folder(
    make_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    max_decoded: int,
    max_headers: int,
) -> None:
    limits = {"max_decoded": max_decoded, "max_headers": max_headers}
    for name, limit in limits.items():
        monkeypatch.setitem(check_files.__kwdefaults__, name, limit)
    monkeypatch.setattr("medvision.data.validation.validate.NUM_SAMPLED", 3)
    root = make_folder(20)
    made = shards(root)
    plain, packed = prepared("segmentation", root), prepared("segmentation", made.out)
    assert plain.properties is packed.properties is None
    assert packed.fingerprint == plain.fingerprint
    assert packed.notes == plain.notes
    assert "headers" in packed.notes[0]
    assert list(packed.table_of_splits()) == list(plain.table_of_splits())
    assert packed.split_fingerprint("test") == plain.split_fingerprint("test")
    batches = [next(iter(data.train_dataloader()))["image"] for data in (plain, packed)]
    assert torch.equal(*batches)


# damage is a one-line error


def spoil_manifest(out: Path, **changes: Any) -> None:
    path = out / "shards.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def error_of(out: Path) -> str:
    with pytest.raises(MedvisionError) as caught:
        prepared("segmentation", out)
    text = str(caught.value)
    assert "\n" not in text
    return text


AGAIN = "copy the shards again, or create them again with medvision data shard"


def test_another_format_is_refused(make_folder: Callable[..., Path]) -> None:
    out = shards(make_folder(12)).out
    spoil_manifest(out, format=2)
    assert error_of(out) == (
        f"expected shards of format 1, got format 2 ({out}/shards.json);"
        " create them again with medvision data shard, or use their version"
    )


def test_facts_of_another_version_are_refused(make_folder: Callable[..., Path]) -> None:
    out = shards(make_folder(12)).out
    spoil_manifest(out, facts_format=99)
    assert error_of(out).startswith("the stored file properties come from another version")


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": []},
        {"shards": [{"name": "../etc/passwd", "num_bytes": 5, "sha256": "0" * 64}]},
        {"shards": [{"name": "shard-000000.tar", "num_bytes": -5, "sha256": "0" * 64}]},
        {"shards": 3},
        {"table": {"name": "/etc/passwd", "num_bytes": 5, "sha256": "0" * 64}},
        {"reading": {"num_classes": None}},
        {"reading": {"num_classes": 2, "exec": "x"}},
        {"format": "1"},
        {"num_images": 13},
    ],
)
def test_an_inconsistent_manifest_is_refused(
    make_folder: Callable[..., Path], changes: dict[str, Any]
) -> None:
    out = shards(make_folder(12)).out
    spoil_manifest(out, **changes)
    assert error_of(out).startswith("damaged shards: ")
    assert error_of(out).endswith(AGAIN)


def test_shards_of_an_unknown_task_are_refused(make_folder: Callable[..., Path]) -> None:
    out = shards(make_folder(12)).out
    spoil_manifest(out, task="regression")
    assert error_of(out).startswith("expected shards for segmentation, got shards for regression")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b"[1]"])
def test_a_manifest_that_is_not_json_is_refused(
    make_folder: Callable[..., Path], content: bytes
) -> None:
    out = shards(make_folder(12)).out
    (out / "shards.json").write_bytes(content)
    assert error_of(out).startswith("damaged shards: ")


@pytest.mark.parametrize("name", ["table.npz", "facts.npz"])
def test_a_changed_byte_of_table_or_facts_is_detected(
    make_folder: Callable[..., Path], name: str
) -> None:
    out = shards(make_folder(12)).out
    content = bytearray((out / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / name).write_bytes(content)
    words = f"damaged shards: the SHA-256 of {name} differs from shards.json ({out}); {AGAIN}"
    assert error_of(out) == words
    (out / name).unlink()
    assert error_of(out) == (
        f"cannot read the file: No such file or directory ({out / name}); {AGAIN}"
    )


def test_a_truncated_or_missing_shard_is_named(make_folder: Callable[..., Path]) -> None:
    out = shards(make_folder(12), shard_bytes=10**7).out
    shard = out / "shard-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    data = prepared("segmentation", out)
    with pytest.raises(MedvisionError) as caught:
        next(iter(data.train_dataloader()))
    assert str(caught.value) == (
        f"damaged shards: expected {len(content)} bytes in shard-000000.tar,"
        f" found {len(content) - 512} ({out}); {AGAIN}"
    )
    shard.unlink()
    with pytest.raises(MedvisionError, match=r"No such file or directory \(.*shard-000000\.tar\)"):
        next(iter(prepared("segmentation", out).train_dataloader()))


def test_a_damaged_picture_in_a_shard_is_named(make_folder: Callable[..., Path]) -> None:
    out = shards(make_folder(12), shard_bytes=10**7).out
    shard = out / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"IDAT", b"IDOT"))
    with pytest.raises(MedvisionError, match=r"shards: (images|masks)/case_\d\d\.png"):
        next(iter(prepared("segmentation", out).train_dataloader()))


def rewrite_table(out: Path, **columns: Any) -> None:
    """Replace columns of the table and update the manifest."""
    import hashlib

    path = out / "table.npz"
    with np.load(path) as stored:
        kept = {name: stored[name] for name in stored.files}
    stream = io.BytesIO()
    np.savez(stream, **{**kept, **columns})
    path.write_bytes(stream.getvalue())
    sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
    table = {"name": path.name, "num_bytes": path.stat().st_size, "sha256": sha256}
    spoil_manifest(out, table=table)


def packed_texts(texts: list[str], name: str) -> dict[str, Any]:
    parts = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(parts), np.uint8)
    return {name: data, f"{name}_ends": np.cumsum([len(part) for part in parts], dtype=np.int64)}


NAMES = [f"images/case_{number:02d}.png" for number in range(12)]


@pytest.mark.parametrize(
    "columns",
    [
        {"start": np.full((12, 2), 10**12)},
        {"start": np.full((12, 2), -1)},
        {"size": np.full((12, 2), 2**62)},
        {"size": np.zeros((12, 2), np.int64)},
        {"size": np.full((12, 1), 5)},
        {"start": np.full(12, 5)},
        {"shard": np.full(12, 7, np.int32)},
        {"shard": np.full(12, -1, np.int32)},
        {"split": np.full(12, 9, np.uint8)},
        {"split": np.zeros(11, np.uint8)},
        {"split": np.zeros(12, np.float64)},
        packed_texts(["/etc/passwd", *NAMES[1:]], "path"),
        packed_texts(["../case.png", *NAMES[1:]], "path"),
        packed_texts(["C:\\case.png", *NAMES[1:]], "path"),
        packed_texts(["", *NAMES[1:]], "path"),
        packed_texts(NAMES[::-1], "path"),
        packed_texts([NAMES[0], NAMES[0], *NAMES[2:]], "path"),
        packed_texts(["masks/../../case.png", *NAMES[1:]], "target"),
        {"path": np.frombuffer(b"\xff" * 312, np.uint8)},
        {"path_ends": np.arange(12)[::-1].copy()},
        {"path_ends": np.full(12, 2**62)},
    ],
)
def test_an_inconsistent_table_is_refused(
    make_folder: Callable[..., Path], columns: dict[str, Any]
) -> None:
    out = shards(make_folder(12)).out
    rewrite_table(out, **columns)
    text = error_of(out)
    assert text.startswith("damaged shards: table.npz: ")
    assert text.endswith(f"({out}); {AGAIN}")


def test_no_content_is_unpickled_or_decompressed(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    import hashlib
    import pickle

    made = tmp_path / "made"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (made,)

    out = shards(make_folder(12)).out
    rewrite_table(out, group=np.array([Evil()], object))
    assert "damaged shards: table.npz: " in error_of(out)
    (out / "table.npz").write_bytes(pickle.dumps(Evil()))
    for content in (pickle.dumps(Evil()), zipped(out)):
        (out / "table.npz").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        spoil_manifest(
            out, table={"name": "table.npz", "num_bytes": len(content), "sha256": sha256}
        )
        assert "damaged shards: table.npz: " in error_of(out)
    assert not made.exists()


def zipped(_: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("path.npy", bytes(10**6))
    return stream.getvalue()


def test_a_moved_set_of_shards_is_the_same(make_folder: Callable[..., Path]) -> None:
    made = shards(make_folder(12))
    before = prepared("segmentation", made.out).fingerprint
    moved = shutil.move(made.out, made.out.with_name("moved"))
    assert prepared("segmentation", moved).fingerprint == before


def test_a_whole_data_set_can_be_gathered_from_shards(make_folder: Callable[..., Path]) -> None:
    root = make_folder(12)
    plain, packed = module("segmentation", root), module("segmentation", shards(root).out)
    assert list(packed.gather()) == list(plain.gather())
    assert packed.fingerprint == plain.fingerprint
