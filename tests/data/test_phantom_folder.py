"""Phantoms as files."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.data.phantoms.chest import draw_chest
from medvision.data.phantoms.folder import Kind, write_phantoms
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.errors import MedvisionError


def test_polyps_are_pairs_of_lossless_files(tmp_path: Path) -> None:
    root = write_phantoms("polyps", tmp_path / "new" / "set", num_images=2, size_px=32, seed=3)
    image, mask = draw_polyp_scene(1, size_px=32, seed=3)
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png")) == [
        f"{folder}/scene_000{index}.png" for folder in ("images", "masks") for index in (0, 1)
    ]
    read = cv2.imread(str(root / "images/scene_0001.png"))
    assert read is not None
    assert np.array_equal(read[..., ::-1], image)
    stored = cv2.imread(str(root / "masks/scene_0001.png"), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert np.array_equal(stored, mask * 255)
    assert [path.name for path in root.parent.iterdir()] == ["set"]


@pytest.mark.parametrize(("kind", "folders"), [("chest_xray", 2), ("brain_mri", 4)])
def test_a_fifth_of_each_class_is_in_the_test_folder(
    tmp_path: Path, kind: Kind, folders: int
) -> None:
    root = write_phantoms(kind, tmp_path / "set", num_images=5 * folders, size_px=16)
    train, test = sorted(root.iterdir(), key=lambda path: len([*path.rglob("*.png")]))[::-1]
    assert [len([*folder.iterdir()]) for folder in train.iterdir()] == [4] * folders
    assert [len([*folder.iterdir()]) for folder in test.iterdir()] == [1] * folders
    if kind == "chest_xray":
        (path,) = (train / "PNEUMONIA").glob("*_0001.png")
        expected = draw_chest(1, 1, size_px=16, seed=0)
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), expected)


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(MedvisionError, match=r"not empty .*; give a new folder"):
        write_phantoms("polyps", tmp_path, num_images=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
