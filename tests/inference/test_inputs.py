from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.data.readers.annotations import read_content
from medvision.data.readers.images import decode_image
from medvision.errors import MedvisionError
from medvision.inference import inputs
from medvision.inference.inputs import chunks, find_inputs

ARRAYS = (("train", 11), ("test", 1))


def picture(path: Path, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))
    return path


def names(*given: Path) -> list[str]:
    return [found.name for found in find_inputs(given)[0]]


def test_a_folder_is_searched_to_its_depth_and_sorted(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "deep/er/c.tif"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("x")
    found, notes = find_inputs([tmp_path / "in"])
    assert [each.name for each in found] == ["a", "b", "deep/er/c"]
    assert found[0].path == tmp_path / "in" / "a.jpg"
    assert notes == [f"other files in {tmp_path / 'in'} were ignored: 1 .txt"]


def test_files_keep_the_order_they_were_given_in(tmp_path: Path) -> None:
    one, two = picture(tmp_path / "z.png"), picture(tmp_path / "a.png")
    assert names(one, two) == ["z", "a"]


def test_results_never_share_a_name(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.jpg", "y/a.png", "y/A.png"):
        picture(tmp_path / name)
    given = (tmp_path / "x", tmp_path / "y", tmp_path / "x" / "a.png")
    found = names(*given)
    assert found == ["x/a", "x/a.png", "y/A", "y/a.png"]
    files = [picture(tmp_path / f"{k}/a.png") for k in range(4)]
    assert names(*files) == ["a", "a.png", "a.png_2", "a.png_3"]


def test_an_image_given_twice_is_predicted_once(tmp_path: Path) -> None:
    image = picture(tmp_path / "in" / "a.png")
    found, notes = find_inputs([image, tmp_path / "in", image])
    assert len(found) == 1
    assert notes == ["ignored 2 repeated images"]


def test_a_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").rename(tmp_path / "scan")
    assert names(tmp_path / "scan") == ["scan"]


def test_the_images_of_an_array_file_are_inputs_in_the_order_of_its_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {
        f"{stage}_images": rng.integers(0, 255, (n, 4, 5, 3), np.uint8) for stage, n in ARRAYS
    }
    labels = {f"{stage}_labels": np.zeros((n, 14), np.uint8) for stage, n in ARRAYS}
    np.savez(tmp_path / "set.npz", **images, **labels)
    expected = ["set/train/00", *(f"set/train/{k:02d}" for k in range(1, 11)), "set/test/0"]
    assert names(tmp_path / "set.npz") == names(tmp_path) == expected
    last = find_inputs([tmp_path])[0][-1].path
    decoded = decode_image(read_content(Path(), str(last)), where="a", channels=3)
    assert np.array_equal(decoded, images["test_images"][0])
    np.savez(tmp_path / "volumes.npz", train_images=np.zeros((2, 4, 4, 4)), train_labels=[0, 1])
    (given,) = find_inputs([tmp_path / "volumes.npz"])[0]
    assert given.error == "expected images (N, H, W) or (N, H, W, 3), got (2, 4, 4, 4)"
    with pytest.raises(MedvisionError, match=r"one of its files of arrays, such as .*set\.npz"):
        find_inputs([tmp_path])


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match="no such file or folder"):
        find_inputs([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvisionError, match="no images in the folder"):
        find_inputs([tmp_path / "empty"])


def test_batches_are_limited_by_number_and_by_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MAX_PIXELS_AT_ONCE", 250)
    for name, size in {"a": (8, 8), "b": (8, 8), "c": (8, 8), "d": (16, 16), "e": (8, 8)}.items():
        picture(tmp_path / f"{name}.png", size)
    (tmp_path / "f.png").write_text("damaged")
    found, _ = find_inputs([tmp_path])
    cut = [[each.name for each in chunk] for chunk in chunks(found, most=2)]
    assert cut == [["a", "b"], ["c"], ["d"], ["e", "f"]]
