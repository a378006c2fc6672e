import cv2
import numpy as np
import pytest

from medvision.data.loading.transforms import Transform, resize
from medvision.errors import MedvisionError

FLIPS = {"HorizontalFlip": {"p": 0.5}, "Affine": {"rotate": [-40, 40], "p": 0.9}}


def pair(height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[8:24, 10:30] = 1
    return image, mask


def test_a_pair_of_the_right_size_is_unchanged() -> None:
    image, mask = pair(32, 32)
    resized, resized_mask = resize(image, mask, 32)
    assert resized is image
    assert resized_mask is mask


def test_masks_take_the_nearest_pixel_centre() -> None:
    mask = np.arange(6, dtype=np.uint8)[None].repeat(6, axis=0)
    _, resized = resize(np.zeros((6, 6, 3), np.uint8), mask, 3)
    assert resized[0].tolist() == [1, 3, 5]  # centres of output pixels: 1.0, 3.0, 5.0 in the input


def test_resizing_creates_no_new_class() -> None:
    image, mask = pair()
    _, resized = resize(image, mask * 7, 33)
    assert set(np.unique(resized)) == {0, 7}


def test_shrinking_averages_the_pixels() -> None:
    checkerboard = np.indices((32, 32)).sum(0) % 2 * 200
    image = checkerboard.astype(np.uint8)[..., None].repeat(3, axis=2)
    resized, _ = resize(image, np.zeros((32, 32), np.uint8), 16)
    assert set(np.unique(resized)) == {100}


def test_grey_images_keep_their_channel_axis() -> None:
    image, mask = pair()
    transform = Transform(size_px=24, transforms=FLIPS, key="data.train_transforms")
    assert transform(image[..., :1], mask, seed=0)[0].shape == (24, 24, 1)


def test_the_seed_determines_every_random_transform() -> None:
    transform = Transform(size_px=32, transforms=FLIPS, key="data.train_transforms")
    image, mask = pair()
    first = transform(image, mask, seed=5)
    other = transform(image, mask, seed=6)
    again = transform(image, mask, seed=5)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_image_and_mask_move_together() -> None:
    image, mask = pair(48, 48)
    image[:] = mask[..., None] * 250
    transform = Transform(size_px=48, transforms=FLIPS, key="data.train_transforms")
    for seed in range(5):
        moved, moved_mask = transform(image, mask, seed=seed)
        agreement = ((moved[..., 0] > 125) == (moved_mask > 0)).mean()
        assert agreement > 0.98


def test_masks_stay_class_indices_under_every_transform() -> None:
    transform = Transform(size_px=32, transforms=FLIPS, key="data.train_transforms")
    image, mask = pair()
    for seed in range(10):
        assert set(np.unique(transform(image, mask * 3, seed=seed)[1])) <= {0, 3}


def test_a_deterministic_transform_is_allowed_everywhere() -> None:
    transform = Transform(
        size_px=32, transforms={"ToGray": {}}, key="data.eval_transforms", deterministic=True
    )
    image, mask = pair(32, 32)
    grey = transform(image, mask, seed=0)[0]
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert np.abs(grey[..., 0].astype(int) - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).max() <= 1


def test_what_a_shift_brings_into_an_image_with_a_field_of_view_is_ignored() -> None:
    """Without a field of view it is background, and a class that the user names stays."""
    shift = {"translate_px": {"x": [8, 8], "y": [0, 0]}, "p": 1.0}
    image, mask = pair(32, 32)
    transform = Transform(size_px=32, transforms={"Affine": shift}, key="data.train_transforms")
    filled = {view: transform(image, mask, seed=0, has_view=view) for view in (False, True)}
    assert np.array_equal(filled[True][0], filled[False][0])
    for view, outside in ((False, 0), (True, 255)):
        moved = np.asarray(filled[view][1])
        assert (moved[:, :8] == outside).all()
        assert np.array_equal(moved[:, 8:], mask[:, :-8])
    named = Transform(size_px=32, transforms={"Affine": {**shift, "fill_mask": 1}}, key="k")
    assert (np.asarray(named(image, mask, seed=0, has_view=True)[1])[:, :8] == 1).all()


def test_holes_in_an_image_with_a_field_of_view_keep_their_mask() -> None:
    image, mask = pair(32, 32)
    transform = Transform(size_px=32, transforms={"CoarseDropout": {"p": 1.0}}, key="k")
    assert np.array_equal(transform(image, mask, seed=0, has_view=True)[1], mask)


@pytest.mark.parametrize("name", ["RandomBrightnessContrast", "HorizontalFlip"])
def test_a_random_transform_is_refused_where_it_must_be_deterministic(name: str) -> None:
    with pytest.raises(MedvisionError, match="got a random one"):
        Transform(
            size_px=32,
            transforms={name: {"p": 0.5}},
            key="data.eval_transforms",
            deterministic=True,
        )


@pytest.mark.parametrize(
    ("transforms", "line"),
    [
        ({"Rotat": {}}, "unknown albumentations transform Rotat .*; did you mean Rotate?"),
        ({"Rotate": {"limitt": 3}}, r"Rotate has no argument limitt .*; did you mean limit\?"),
        ({"HorizontalFlip": {"p": 3}}, "invalid arguments of HorizontalFlip: "),
    ],
)
def test_errors_name_the_config_key(transforms: dict, line: str) -> None:
    with pytest.raises(MedvisionError, match=line) as raised:
        Transform(size_px=32, transforms=transforms, key="data.train_transforms")
    assert f"data.train_transforms.{next(iter(transforms))}" in str(raised.value)
