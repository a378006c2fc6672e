"""JPEG files much larger than the network input are decoded at a reduced size."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvision.data import SegmentationData
from medvision.data.loading.transforms import resize
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.data.readers.decode import decode
from medvision.data.readers.images import image_of
from medvision.errors import MedvisionError
from medvision.run.config.store import keys_of

SIZE_PX = 32


def scene(number: int, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    image, mask = draw_polyp_scene(number, size_px=max(height, width))
    return image[:height, :width], mask[:height, :width] * np.uint8(255)


def encoded(image: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(128, 128, 2), (127, 300, 1), (255, 400, 2), (256, 400, 4), (600, 512, 8), (32, 32, 1)],
)
def test_two_pixels_are_kept_for_each_of_the_network_input(
    height: int, width: int, factor: int
) -> None:
    data = encoded(scene(1, height=height, width=width)[0], "JPEG")
    picture = decode(data, where="a.jpg", for_px=SIZE_PX)
    read = image_of(picture, channels=3)
    assert read.shape == (-(-height // factor), -(-width // factor), 3)
    assert picture.whole_size == ((height, width) if factor > 1 else None)
    assert min(read.shape[:2]) >= min(2 * SIZE_PX, height, width)


def test_a_reduced_image_differs_little_from_the_resized_whole_one() -> None:
    differences = []
    for number in range(4):
        data = encoded(scene(number, height=300, width=400)[0], "JPEG", quality=90)
        whole, reduced = (
            image_of(decode(data, where="a.jpg", for_px=px), channels=3) for px in (None, SIZE_PX)
        )
        assert whole.shape != reduced.shape
        ours, theirs = (resize(x, None, SIZE_PX)[0].astype(float) for x in (reduced, whole))
        differences.append(np.abs(ours - theirs).mean())
    assert max(differences) < 1


def test_other_formats_and_readers_of_the_original_size_decode_all_pixels() -> None:
    image = scene(2, height=256, width=256)[0]
    for kind in ("PNG", "BMP", "WEBP"):
        picture = decode(encoded(image, kind), where="a", for_px=SIZE_PX)
        assert picture.whole_size is None
        assert image_of(picture, channels=3).shape == image.shape
    assert decode(encoded(image, "JPEG"), where="a").pillow.size == (256, 256)


def test_the_whole_size_is_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    data = encoded(scene(3, height=256, width=384)[0], "JPEG", exif=exif)
    picture = decode(data, where="a.jpg", for_px=SIZE_PX)
    assert picture.whole_size == (384, 256)
    assert image_of(picture, channels=1).shape == (96, 64, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for number in range(12):
        image, mask = scene(number, height=256, width=320)
        (tmp_path / f"set/images/{number}.jpg").write_bytes(encoded(image, "JPEG"))
        (tmp_path / f"set/masks/{number}.jpg").write_bytes(encoded(mask, "JPEG", quality=95))
    return tmp_path / "set"


def opened(root: Path, **changes: Any) -> SegmentationData:
    config: Any = keys_of("data", "folder_segmentation")
    config.pop("_target_")
    small = {"seed": 0, "image_size": SIZE_PX, "batch_size": 4, "num_workers": 0}
    return SegmentationData(**{**config, **small, "root": str(root), **changes})


@pytest.mark.parametrize("decoded_gb", [0, 1])
def test_batches_of_reduced_images_have_the_same_masks(folder: Path, decoded_gb: int) -> None:
    found = []
    for reduced in (True, False):
        data = opened(folder, decoded_gb=decoded_gb, reduced_decoding=reduced)
        data.prepare()
        found.append([(b["index"], b["image"], b["target"]) for b in data.val_dataloader()])
    for (rows, image, mask), (same_rows, whole, same_mask) in zip(*found, strict=True):
        assert (rows == same_rows).all()
        assert (mask == same_mask).all()
        difference = (image.float() - whole.float()).abs().mean()
        assert 0 < difference < 1


def test_a_mask_of_another_size_is_refused_by_the_size_in_the_file(folder: Path) -> None:
    data = opened(folder, decoded_gb=0, reduced_decoding=True)
    data.prepare()
    mask = scene(0, height=128, width=160)[1]  # the size at which the image is decoded
    for number in range(12):
        (folder / f"masks/{number}.jpg").write_bytes(encoded(mask, "JPEG"))
    with pytest.raises(MedvisionError, match="256") as failure:
        next(iter(data.val_dataloader()))
    assert "128" in str(failure.value)
