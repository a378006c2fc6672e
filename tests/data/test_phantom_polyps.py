from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.data.phantoms.polyps import draw_polyp_scene

Mask = NDArray[np.bool_]


@pytest.fixture
def one_more_thread() -> Iterator[None]:
    """Use another number of OpenCV threads."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(before + 1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def small_masks() -> list[Mask]:
    return [draw_polyp_scene(index, size_px=64)[1] > 0 for index in range(300)]


def mean_dice(predicted: Mask, truth: Mask) -> float:
    """Mean Dice of N (H, W) images; 1 for two empty masks."""
    overlap = np.count_nonzero(predicted & truth, axis=(1, 2))
    total = np.count_nonzero(predicted, axis=(1, 2)) + np.count_nonzero(truth, axis=(1, 2))
    return float(np.mean((2 * overlap + 1e-7) / (total + 1e-7)))


@pytest.mark.parametrize("size_px", [16, 17, 64, 101, 256, 512])
def test_image_is_rgb_bytes_and_mask_is_zero_or_one(size_px: int) -> None:
    for index in range(4):
        image, mask = draw_polyp_scene(index, size_px=size_px)
        assert image.shape == (size_px, size_px, 3)
        assert mask.shape == (size_px, size_px)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}
        assert image.max() > 150, "the scene is lit"
        assert image[..., 0].mean() > image[..., 2].mean(), "red comes first: mucosa is not blue"


def test_default_size_is_256() -> None:
    assert draw_polyp_scene(0)[1].shape == (256, 256)


def test_same_arguments_draw_the_same_pixels_in_any_order() -> None:
    forth = {index: draw_polyp_scene(index, size_px=96, seed=3) for index in range(6)}
    back = {index: draw_polyp_scene(index, size_px=96, seed=3) for index in reversed(range(6))}
    for index, (image, mask) in forth.items():
        np.testing.assert_array_equal(image, back[index][0])
        np.testing.assert_array_equal(mask, back[index][1])


def test_global_random_state_is_neither_read_nor_moved() -> None:
    np.random.seed(0)  # noqa: NPY002  the legacy state is what the test is about
    state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    image, _ = draw_polyp_scene(1, size_px=64)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(image, draw_polyp_scene(1, size_px=64)[0])


def test_number_of_threads_changes_no_pixel(request: pytest.FixtureRequest) -> None:
    before = [draw_polyp_scene(index) for index in range(3)]
    request.getfixturevalue("one_more_thread")
    for index, (image, mask) in enumerate(before):
        again = draw_polyp_scene(index)
        np.testing.assert_array_equal(image, again[0])
        np.testing.assert_array_equal(mask, again[1])


def test_another_index_or_seed_draws_another_scene() -> None:
    scenes = [draw_polyp_scene(i, size_px=32, seed=s)[0] for i in range(8) for s in range(4)]
    assert len({scene.tobytes() for scene in scenes}) == 32


def test_caller_owns_what_is_returned() -> None:
    image, mask = draw_polyp_scene(0, size_px=64)
    image[:], mask[:] = 0, 9
    again = draw_polyp_scene(0, size_px=64)
    assert again[0].any()
    assert again[1].max() == 1


@pytest.mark.parametrize(("small_px", "large_px", "least"), [(64, 128, 0.9), (32, 256, 0.8)])
def test_one_index_shows_one_scene_at_every_size(
    small_px: int, large_px: int, least: float
) -> None:
    for index in range(16):
        small_image, small = draw_polyp_scene(index, size_px=small_px)
        large_image, large = draw_polyp_scene(index, size_px=large_px)
        shrunk = cv2.resize(large * 255, (small_px, small_px), interpolation=cv2.INTER_AREA) > 127
        union = np.count_nonzero(shrunk | (small > 0))
        assert union == 0 or np.count_nonzero(shrunk & (small > 0)) / union >= least
        fitted = cv2.resize(large_image, (small_px, small_px), interpolation=cv2.INTER_AREA)
        assert np.abs(fitted.astype(float) - small_image).mean() < 10, "of 255 grey levels"


def test_about_one_scene_in_fourteen_is_empty(small_masks: list[Mask]) -> None:
    empty = sum(not mask.any() for mask in small_masks) / len(small_masks)
    assert 0.03 <= empty <= 0.12


def test_some_scenes_have_two_polyps(small_masks: list[Mask]) -> None:
    counts = [cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for mask in small_masks]
    assert 0.05 <= sum(count == 2 for count in counts) / len(counts) <= 0.2


def test_polyps_cover_one_to_some_forty_percent(small_masks: list[Mask]) -> None:
    shares = [float(mask.mean()) for mask in small_masks if mask.any()]
    assert 0.008 <= min(shares) <= 0.03
    assert 0.25 <= max(shares) <= 0.4
    assert 0.06 <= float(np.median(shares)) <= 0.2


def test_smallest_size_loses_no_polyp(small_masks: list[Mask]) -> None:
    for index, mask in enumerate(small_masks[:100]):
        assert draw_polyp_scene(index, size_px=16)[1].any() == mask.any()


def test_no_threshold_on_colour_finds_the_polyps() -> None:
    """Even the best threshold, chosen on the scored images, fails."""
    scenes = [draw_polyp_scene(index, size_px=96) for index in range(64)]
    truths = np.stack([mask > 0 for _, mask in scenes])
    red, green, blue = np.moveaxis(np.stack([image for image, _ in scenes]).astype(float), -1, 0)
    share = red / (red + green + blue + 1)
    for values in (share, red - green, red + green + blue, -share):
        thresholds = np.quantile(values, np.linspace(0, 1, 25))
        best = max(mean_dice(values > threshold, truths) for threshold in thresholds)
        assert 0.1 < best < 0.5


@pytest.mark.parametrize(
    ("index", "size_px", "seed", "message"),
    [
        (-1, 64, 0, "expected index of 0 or greater, got -1"),
        (0, 15, 0, "expected size_px of 16 or greater, got 15"),
        (0, 64, -2, "expected seed of 0 or greater, got -2"),
    ],
)
def test_argument_out_of_range_is_named(index: int, size_px: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        draw_polyp_scene(index, size_px=size_px, seed=seed)
