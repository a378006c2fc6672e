from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.data import ClassificationData, SegmentationData
from medvision.data.discovery.splits_csv import write_splits
from medvision.errors import MedvisionError
from medvision.run.config.store import keys_of
from medvision.types import STAGES


def module(**changes: Any) -> SegmentationData:
    """Small data module of the shipped configuration."""
    shipped = keys_of("data", "folder_segmentation")
    shipped.pop("_target_")
    small = {"seed": 0, "image_size": 32, "num_images": 40, "batch_size": 4, "num_workers": 0}
    return SegmentationData(**{**shipped, **small, **changes})


def of_classes(root: Path, **changes: Any) -> ClassificationData:
    """Data module of a folder with the shipped configuration."""
    shipped = keys_of("data", "folder_classification")
    shipped.pop("_target_")
    small = {"seed": 0, "image_size": 32, "num_workers": 0}
    return ClassificationData(**{**shipped, **small, **changes, "root": str(root)})


def prepared(**changes: Any) -> SegmentationData:
    data = module(**changes)
    data.prepare()
    return data


def test_phantoms_fill_three_splits_without_overlap() -> None:
    data = prepared()
    paths = [sample.path for stage in STAGES for sample in data.tables[stage]]
    assert len(paths) == len(set(paths)) == 40
    assert all(data.tables[stage] for stage in STAGES)
    assert data.synthetic


@pytest.mark.parametrize(
    ("folders", "keys", "drawn"),
    [
        (("a", "b"), {}, STAGES),
        (("train/a", "train/b", "test/a", "test/b"), {}, ("val",)),
        (("train/a", "train/b", "test/a", "test/b"), {"protocol": "grouped"}, STAGES),
        (("train/a", "train/b", "val/a", "val/b"), {"test_fraction": 0.0}, ()),
    ],
)
def test_the_splits_of_which_no_image_was_given_are_known_as_drawn(
    make_class_folder: Callable[..., Path],
    folders: tuple[str, ...],
    keys: dict[str, Any],
    drawn: tuple[str, ...],
) -> None:
    data = of_classes(make_class_folder(dict.fromkeys(folders, 8)), **keys)
    data.prepare()
    assert data.drawn == drawn


@pytest.mark.parametrize(
    ("counts", "keys", "few", "splits"),
    [
        ({"well": 8, "sick": 1}, {}, "sick has 1 image", "train, val, test"),
        ({"well": 8, "sick": 2, "odd": 1}, {}, "odd has 1 image, sick has 2 images", "train"),
        ({"well": 8, "sick": 1}, {"val_fraction": 0.0}, "sick has 1 image", "train, test"),
        ({"well": 8, "sick": 2}, {"val_fraction": 0.0}, None, ""),
        ({"train/well": 4, "train/sick": 1, "test/well": 2, "test/sick": 1}, {}, None, ""),
    ],
)
def test_a_class_with_fewer_images_than_drawn_splits_is_refused_with_its_count(
    make_class_folder: Callable[..., Path],
    counts: dict[str, int],
    keys: dict[str, Any],
    few: str | None,
    splits: str,
) -> None:
    data = of_classes(make_class_folder(counts), **keys)
    if few is None:
        data.prepare()
        return
    with pytest.raises(MedvisionError) as caught:
        data.prepare()
    text = str(caught.value)
    assert text.startswith(f"{few} ({data.root}); a drawn split needs one image of each class in")
    assert f"each class in {splits}" in text
    assert "data.exclude" in text


def test_a_class_of_one_group_without_training_images_is_refused_with_that_reason(
    make_class_folder: Callable[..., Path],
) -> None:
    root = make_class_folder({"well": 12, "sick": 4})
    for path in (root / "sick").iterdir():
        path.rename(path.with_name(f"patient_{path.name}"))
    data = of_classes(root, group_pattern="(patient)_", split_seed=5)  # draws the group for test
    with pytest.raises(MedvisionError) as caught:
        data.prepare()
    assert str(caught.value) == (
        "no training image of sick (data.root); the 4 images of sick lie in 1 group: a group stays"
        " in one split; add images of other groups, or leave the class out with data.exclude"
    )


def test_existing_phantoms_keep_their_split_when_more_are_drawn() -> None:
    few, many = prepared(num_images=40), prepared(num_images=80)
    for stage in STAGES:
        assert {s.path for s in few.tables[stage]} <= {s.path for s in many.tables[stage]}


def test_the_split_depends_on_split_seed_and_not_on_seed() -> None:
    tables = [prepared(seed=0).tables, prepared(seed=1).tables, prepared(split_seed=1).tables]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_only_training_images_are_augmented() -> None:
    flip = {"HorizontalFlip": {"p": 1.0}}
    data, plain = prepared(train_transforms=flip), prepared()
    for stage, same in (("train", False), ("val", True), ("test", True)):
        ours = data.dataset(stage)[0, 0]["image"]
        assert np.array_equal(ours, plain.dataset(stage)[0, 0]["image"]) is same


def test_only_training_drops_a_short_batch() -> None:
    data = prepared(num_images=43)
    counts = {stage: len(data.tables[stage]) for stage in STAGES}
    seen = {
        "train": sum(len(batch["image"]) for batch in data.train_dataloader()),
        "val": sum(len(batch["image"]) for batch in data.val_dataloader()),
        "test": sum(len(batch["image"]) for batch in data.test_dataloader()),
    }
    assert seen["train"] == counts["train"] // 4 * 4
    assert seen["val"] == counts["val"]
    assert seen["test"] == counts["test"]


def test_fixed_shapes_pad_only_the_last_batch_of_validation_and_test() -> None:
    data = prepared(num_images=83)
    trained = [batch["index"].tolist() for batch in data.train_dataloader()]
    data.tables |= {"val": data.tables["val"][:7], "test": data.tables["test"][:5]}
    data.fixed_shapes = True
    assert [batch["index"].tolist() for batch in data.train_dataloader()] == trained
    for count, loader in ((7, data.val_dataloader()), (5, data.test_dataloader())):
        batches = list(loader)
        assert {batch["image"].shape for batch in batches} == {(4, 3, 32, 32)}
        rows = [row for batch in batches for row in batch["index"].tolist()]
        assert rows == [*range(count), *[-1] * (-count % 4)]


def test_fewer_images_than_a_batch_still_train() -> None:
    data = prepared(num_images=12, batch_size=64)
    assert sum(len(batch["image"]) for batch in data.train_dataloader()) == len(
        data.tables["train"]
    )


def test_groups_by_pattern_stay_whole(make_folder: Callable[..., Path]) -> None:
    root = make_folder(30)
    data = prepared(root=str(root), group_pattern=r"case_(\d)\d")
    split_of: dict[str, set[str]] = {}
    for stage in STAGES:
        for sample in data.tables[stage]:
            split_of.setdefault(Path(sample.path).stem[5], set()).add(stage)
    assert set(split_of) == {"0", "1", "2"}
    assert all(len(stages) == 1 for stages in split_of.values())


def test_the_table_of_splits_hides_group_names(make_folder: Callable[..., Path]) -> None:
    root = make_folder(30)
    data = prepared(root=str(root), group_pattern=r"(case_\d)\d")
    groups = {sample.group for sample in data.table_of_splits()}
    assert len(groups) == 3
    assert not any("case" in group for group in groups)


def test_the_fingerprint_follows_the_content(make_folder: Callable[..., Path]) -> None:
    first, same = make_folder(10, name="a"), make_folder(10, name="b")
    other = make_folder(11, name="c")
    prints = [prepared(root=str(root)).fingerprint for root in (first, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_skipped_images_are_reported(make_folder: Callable[..., Path]) -> None:
    root = make_folder(20)
    (root / "images" / "case_04.png").write_bytes(b"no image")
    with pytest.raises(MedvisionError, match=r"case_04\.png"):
        prepared(root=str(root))
    data = prepared(root=str(root), on_error="skip")
    assert sum(len(table) for table in data.tables.values()) == 19
    assert any("case_04.png" in note for note in data.notes)


def test_the_number_of_classes_is_that_of_the_names_and_must_not_contradict_them() -> None:
    assert module(class_names=["a", "b", "c"]).reading.num_classes == 3
    with pytest.raises(MedvisionError, match=r"data.num_classes: 4 for 3 class names, a, b, c \("):
        module(class_names=["a", "b", "c"], num_classes=4)
    with pytest.raises(MedvisionError, match=r"data.color_map: 3 colours for 2 class names"):
        module(color_map=[(0, 0, 0), (255, 0, 0), (0, 255, 0)])


def test_multi_class_masks_reach_the_batch(make_folder: Callable[..., Path]) -> None:
    import cv2

    root = make_folder(12)
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255 * (1 + number % 2)
        cv2.imwrite(str(path), mask)
    data = prepared(root=str(root), class_names=["none", "a", "b"], num_classes=3)
    values = {int(v) for batch in data.train_dataloader() for v in batch["target"].unique()}
    assert values == {0, 1, 2}


def add_mirrored_copies(root: Path, count: int = 6) -> None:
    """Add mirrored copies of the first images, with names of other hashes."""
    for index in range(count):
        for folder in ("images", "masks"):
            picture = cv2.imread(str(root / folder / f"case_{index:02d}.png"), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(root / folder / f"mirrored_{index:02d}.png"), picture[:, ::-1])


@pytest.mark.parametrize("protocol", ["official", "grouped", "kfold"])
def test_mirrored_near_duplicates_with_masks_stay_in_one_split(
    make_folder: Callable[..., Path], protocol: str
) -> None:
    root = make_folder(30)
    add_mirrored_copies(root)
    data = prepared(root=str(root), protocol=protocol, val_fraction=0.2, test_fraction=0.2)
    split = {Path(s.path).stem: stage for stage in STAGES for s in data.tables[stage]}
    assert len(split) == 36
    assert all(split[f"case_{k:02d}"] == split[f"mirrored_{k:02d}"] for k in range(6))
    assert data.near_duplicates is not None
    assert len(data.near_duplicates.first) == 6


def test_the_folds_of_masks_test_every_image_once(make_folder: Callable[..., Path]) -> None:
    root = make_folder(30)
    tested = [
        sample.path
        for fold in range(3)
        for sample in prepared(root=str(root), protocol="kfold", folds=3, fold=fold).tables["test"]
    ]
    assert sorted(tested) == [f"images/case_{k:02d}.png" for k in range(30)]


def test_a_kept_split_is_unchanged_and_a_new_image_that_links_two_groups_is_reported(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder(30)
    options = {"root": str(root), "protocol": "grouped", "val_fraction": 0.2, "test_fraction": 0.2}
    before = prepared(**options)
    write_splits(tmp_path / "old.csv", before.table_of_splits())
    tested, trained = before.tables["test"][0].path, before.tables["train"][0].path
    for name, source in (("new_a", tested), ("new_b", trained)):
        for folder in ("images", "masks"):
            data = (root / folder / Path(source).name).read_bytes()
            (root / folder / f"{name}.png").write_bytes(data)
    after = prepared(**options, splits=str(tmp_path / "old.csv"))
    old = {s.path: stage for stage in STAGES for s in before.tables[stage]}
    new = {s.path: stage for stage in STAGES for s in after.tables[stage]}
    assert {path: new[path] for path in old} == old
    assert (new["images/new_a.png"], new["images/new_b.png"]) == ("test", "train")
    assert not [note for note in after.notes if note.startswith("LEAK")]
    tie = "(case|new)"  # one group of all: links train and test
    tied = prepared(**{**options, "group_pattern": tie}, splits=str(tmp_path / "old.csv"))
    assert {s.path: stage for stage in STAGES for s in tied.tables[stage]}.items() >= old.items()
    assert any(note.startswith("LEAK") for note in tied.notes)


def test_the_fingerprint_of_a_split_depends_only_on_its_images(
    make_folder: Callable[..., Path],
) -> None:
    root = make_folder(30)
    options = {"root": str(root), "val_fraction": 0.2, "test_fraction": 0.2}
    data = prepared(**options)
    before = data.split_fingerprint("test")
    assert before != data.split_fingerprint("val")
    restored = module(**options)
    restored.restore(data.samples)
    restored.read_again()
    assert restored.split_fingerprint("test") == before
    name = Path(data.tables["train"][0].path).name
    picture = cv2.imread(str(root / "images" / name))
    cv2.imwrite(str(root / "images" / name), 255 - picture)
    assert prepared(**options).split_fingerprint("test") == before
    name = Path(data.tables["test"][0].path).name
    picture = cv2.imread(str(root / "images" / name))
    cv2.imwrite(str(root / "images" / name), 255 - picture)
    assert prepared(**options).split_fingerprint("test") != before
