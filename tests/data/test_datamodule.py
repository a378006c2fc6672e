from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from medvision.data import SegmentationData
from medvision.run.configs import CONF
from medvision.types import STAGES, MedvisionError


def module(**changes: Any) -> SegmentationData:
    """The shipped configuration, small, as a data module."""
    shipped = OmegaConf.to_container(OmegaConf.load(CONF / "data" / "folder_segmentation.yaml"))
    shipped.pop("_target_")
    small = {"seed": 0, "image_size": 32, "num_images": 40, "batch_size": 4, "num_workers": 0}
    return SegmentationData(**{**shipped, **small, **changes})


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


def test_more_phantoms_move_none_of_the_old_ones() -> None:
    few, many = prepared(num_images=40), prepared(num_images=80)
    for stage in STAGES:
        assert {s.path for s in few.tables[stage]} <= {s.path for s in many.tables[stage]}


def test_the_seed_leaves_the_split_alone_and_the_split_seed_draws_another() -> None:
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


def test_skipping_reports_what_it_leaves_out(make_folder: Callable[..., Path]) -> None:
    root = make_folder(20)
    (root / "images" / "case_04.png").write_bytes(b"no image")
    with pytest.raises(MedvisionError, match=r"case_04\.png"):
        prepared(root=str(root))
    data = prepared(root=str(root), on_error="skip")
    assert sum(len(table) for table in data.tables.values()) == 19
    assert any("case_04.png" in note for note in data.notes)


def test_class_names_must_match_their_number() -> None:
    with pytest.raises(MedvisionError, match=r"3 class names for 2 classes \(data.num_classes\)"):
        module(class_names=["a", "b", "c"])


def test_multi_class_masks_reach_the_batch(make_folder: Callable[..., Path]) -> None:
    import cv2

    root = make_folder(12)
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255 * (1 + number % 2)
        cv2.imwrite(str(path), mask)
    data = prepared(root=str(root), class_names=["none", "a", "b"], num_classes=3)
    values = {int(v) for batch in data.train_dataloader() for v in batch["target"].unique()}
    assert values == {0, 1, 2}
