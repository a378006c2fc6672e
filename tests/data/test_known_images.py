import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.data.duplicates.known_images import (
    FORMAT,
    Copy,
    KnownImages,
    _projections,
    _waves,
)
from medvision.data.reading import Reading
from medvision.data.samples import Sample, SampleTable
from medvision.data.validation.properties import ImageProperties
from medvision.data.validation.validate import check_files

Images = list[NDArray[np.uint8]]


def drawn(number: int, *, seed: int, size_px: int = 80) -> Images:
    """Blurred noise in two scales, all different."""
    rng = np.random.default_rng(seed)
    planes = rng.normal(0, 1, (number, 2, size_px, size_px))
    both = [
        cv2.GaussianBlur(a, (0, 0), size_px / 10) * 3 + cv2.GaussianBlur(b, (0, 0), size_px / 30)
        for a, b in planes
    ]
    return [
        np.asarray(cv2.normalize(p, None, 20, 235, cv2.NORM_MINMAX), np.uint8)  # type: ignore[call-overload]
        for p in both
    ]


def read(folder: Path, images: Images, *, quality: int | None = None) -> ImageProperties:
    """Write images and read the properties of the files."""
    folder.mkdir()
    suffix = "png" if quality is None else "jpg"
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    names = [f"{k:02d}.{suffix}" for k in range(len(images))]
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(str(folder / name), image, options)
    samples = SampleTable.of(Sample(path=name, target="") for name in names)
    found = check_files(folder, samples, Reading(), on_error="fail", max_decoded=None).properties
    assert found is not None
    return found


def described(properties: ImageProperties, *, num_val: int = 0) -> KnownImages:
    is_val = np.arange(len(properties)) >= len(properties) - num_val
    return KnownImages.from_bytes(KnownImages.of(properties, is_val).to_bytes())


def test_identical_images_are_found_in_other_files_and_by_split(tmp_path: Path) -> None:
    images = drawn(12, seed=0)
    known = described(read(tmp_path / "known", images), num_val=2)
    found = known.find(read(tmp_path / "other", [images[3], drawn(1, seed=1)[0], images[11]]))
    assert found == [Copy(0, 3, True), Copy(2, 11, True)]
    assert known.is_val[[copy.known for copy in found]].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["jpeg", "smaller", "larger", "mirrored", "turned", "toned"])
def test_encoded_resized_and_turned_copies_are_found(tmp_path: Path, kind: str) -> None:
    images = drawn(12, seed=0)
    known = described(read(tmp_path / "known", images))
    size = {"smaller": (50, 50), "larger": (120, 100)}.get(kind)
    copies = [image if size is None else cv2.resize(image, size) for image in images]
    copies = [copy[:, ::-1] for copy in copies] if kind == "mirrored" else copies
    copies = [np.rot90(copy) for copy in copies] if kind == "turned" else copies
    copies = [(copy * 0.7 + 20).astype(np.uint8) for copy in copies] if kind == "toned" else copies
    other = read(tmp_path / "other", [np.asarray(c) for c in copies],
                 quality=30 if kind == "jpeg" else None)  # fmt: skip
    assert known.find(other) == [Copy(k, k, False) for k in range(12)]


def test_other_images_of_the_same_look_are_not_found(tmp_path: Path) -> None:
    known = described(read(tmp_path / "known", drawn(40, seed=0)))
    assert known.find(read(tmp_path / "other", drawn(40, seed=1))) == []


def test_a_frame_that_all_images_share_is_no_copy(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:80, :80]
    inside = np.hypot(rows - 40, columns - 40) < 30

    def framed(images: Images) -> Images:
        return [np.where(inside, 90 + image // 4, 5).astype(np.uint8) for image in images]

    known = described(read(tmp_path / "known", framed(drawn(20, seed=0))))
    again = framed(drawn(20, seed=0)[:4])
    other = read(tmp_path / "other", framed(drawn(20, seed=1)) + again, quality=90)
    assert known.find(other) == [Copy(20 + k, k, False) for k in range(4)]


def test_images_without_content_are_only_found_by_equal_pixels(tmp_path: Path) -> None:
    faint = [np.full((80, 80), 30 + k, np.uint8) for k in range(3)]
    for k, image in enumerate(faint):
        image[k * 10 : k * 10 + 5, :9] += 2
    images = drawn(12, seed=0)
    known = described(read(tmp_path / "known", images + faint))
    assert known.find(read(tmp_path / "other", [image + 1 for image in faint])) == []
    assert known.find(read(tmp_path / "same", faint[1:2])) == [Copy(0, 13, True)]


def test_hashes_are_salted_and_hold_neither_pixels_nor_the_usual_hash(tmp_path: Path) -> None:
    properties = read(tmp_path / "known", drawn(12, seed=0))
    one, other = (KnownImages.of(properties, np.zeros(12, np.bool_)) for _ in range(2))
    assert not np.isin(one.pixels, other.pixels).any()
    assert np.isin(one.pictures, other.pictures).mean() < 0.01
    content = one.to_bytes()
    assert bytes.fromhex(str(properties.pixel_hash[0]))[:8] not in content
    assert len(content) / 12 < 48 * 48 / 2  # 64 x 32 bits and a hash, less than any thumbnail
    assert np.abs(one.mean * 2 - np.round(one.mean * 2)).max() == 0


def test_the_mean_of_few_images_is_not_kept(tmp_path: Path) -> None:
    assert not described(read(tmp_path / "known", drawn(9, seed=0))).mean.any()


def test_a_damaged_file_and_another_version_are_named(tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    content = described(read(tmp_path / "known", drawn(3, seed=0))).to_bytes()
    with pytest.raises(ValueError, match="the file is damaged"):
        KnownImages.from_bytes(content[:-5])
    columns = load(content)
    with pytest.raises(ValueError, match="another version"):
        KnownImages.from_bytes(save({**columns, "format": np.array([9], np.uint8)}))
    with pytest.raises(ValueError, match="the file is damaged"):
        KnownImages.from_bytes(save({**columns, "pixels": columns["pixels"][:2]}))
    del columns["mean"]
    with pytest.raises(ValueError, match="the file is damaged"):
        KnownImages.from_bytes(save(columns))


def test_images_are_described_as_in_older_runs() -> None:
    """A change of these numbers needs a new ``FORMAT``: older runs would recognise nothing."""
    rows, columns = np.mgrid[:48, :48]
    picture = ((columns * 7 + rows * rows * 3 + (columns * rows) // 5) % 256).astype(np.uint8)
    waves = _waves(picture[None])[0]
    assert FORMAT == 1
    assert waves[[2, 5, 0, 7], [3, 1, 8, 4]] == pytest.approx(
        [-0.18363, -0.11024, -0.11986, -0.32543], abs=1e-3
    )
    signs = (_projections() > 0).astype(np.uint8)
    assert signs.shape == (4096, 69)
    digest = hashlib.sha256(signs.tobytes()).hexdigest()
    assert digest.startswith("3d5e3aba042e14e6")
