import subprocess
import sys
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from medvision.reports.plots.overlays import (
    CLASS_COLORS,
    PREDICTED_COLOR,
    TRUE_COLOR,
    draw_overlay,
    encode_png,
    heat_overlay,
)

GREY = 90


def grey(height: int = 48, width: int = 64, channels: int = 3) -> np.ndarray:
    return np.full((height, width, channels), GREY, np.uint8)


def empty(height: int = 48, width: int = 64) -> np.ndarray:
    return np.zeros((height, width), np.uint8)


def drawn(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Pixels (H, W) of the right half in this colour."""
    return (picture[:, picture.shape[1] // 2 :] == color).all(axis=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_original_is_on_the_left_and_nothing_is_drawn_without_a_region(
    channels: int,
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 41, channels), dtype=np.uint8)
    picture = draw_overlay(image, empty(30, 41), truth=empty(30, 41))
    assert picture.shape == (30, 82, 3)
    assert picture.dtype == np.uint8
    assert (picture == np.concatenate([image, image], axis=1)).all()


def test_the_contour_of_a_square_is_its_border() -> None:
    mask = empty()
    mask[10:20, 5:30] = 1
    picture = draw_overlay(grey(), mask)
    border = mask.copy()
    border[11:19, 6:29] = 0
    assert (drawn(picture, PREDICTED_COLOR) == border).all()
    assert (picture[:, :64] == GREY).all()
    assert (drawn(picture, PREDICTED_COLOR) | (picture[:, 64:] == GREY).all(axis=2)).all()


def test_every_single_pixel_is_drawn() -> None:
    mask = empty()
    mask[::5, ::7] = 1
    assert (drawn(draw_overlay(grey(), mask), PREDICTED_COLOR) == mask).all()


def test_a_hole_has_its_contour() -> None:
    mask = empty()
    mask[5:40, 5:40] = 1
    mask[20:25, 20:25] = 0
    around_hole = drawn(draw_overlay(grey(), mask), PREDICTED_COLOR)[6:39, 6:39]
    assert around_hole.any()
    assert not drawn(draw_overlay(grey(), mask), PREDICTED_COLOR)[20:25, 20:25].any()
    assert drawn(draw_overlay(grey(), mask), PREDICTED_COLOR)[19, 22]


@pytest.mark.parametrize(("side_px", "width_px"), [(32, 1), (128, 1), (352, 3), (1024, 8)])
def test_contour_width_follows_the_image_size(side_px: int, width_px: int) -> None:
    mask = empty(side_px, side_px)
    mask[:, side_px // 4 : side_px // 2] = 1
    row = drawn(draw_overlay(grey(side_px, side_px), mask), PREDICTED_COLOR)[side_px // 2]
    assert row[: side_px * 3 // 8].sum() == pytest.approx(width_px, abs=1)


def test_contours_at_the_left_border_do_not_reach_into_the_original() -> None:
    mask = np.ones((512, 512), np.uint8)
    assert (draw_overlay(grey(512, 512), mask)[:, :512] == GREY).all()


def test_each_class_has_its_color_and_the_seventh_that_of_the_first() -> None:
    mask = empty()
    for label in range(1, 8):
        mask[20, 8 * label] = label
    picture = draw_overlay(grey(), mask)
    for label in range(1, 8):
        assert tuple(picture[20, 64 + 8 * label]) == CLASS_COLORS[(label - 1) % 6]
    assert len({*CLASS_COLORS, TRUE_COLOR}) == 7


def test_the_truth_is_green_for_any_class_and_below_the_prediction() -> None:
    mask, truth = empty(), empty()
    mask[10:20, 10:20] = 1
    truth[10:20, 10:20] = 1
    truth[30:40, 10:20] = 2
    picture = draw_overlay(grey(), mask, truth=truth)
    assert not drawn(picture, TRUE_COLOR)[:25].any()
    assert drawn(picture, PREDICTED_COLOR)[10, 10:20].all()
    assert drawn(picture, TRUE_COLOR)[30, 10:20].all()


def test_pixels_without_a_label_are_not_drawn() -> None:
    truth = empty()
    truth[10:20, 10:20] = 255
    assert (draw_overlay(grey(), empty(), truth=truth) == GREY).all()


def test_drawing_changes_no_input() -> None:
    image, mask = grey(), empty()
    mask[10:20, 10:20] = 1
    before = image.copy(), mask.copy()
    draw_overlay(image, mask, truth=mask)
    assert (image == before[0]).all()
    assert (mask == before[1]).all()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a mask \(48, 64\), got \(48, 32\)"):
        draw_overlay(grey(), empty()[:, :32])
    with pytest.raises(ValueError, match=r"expected a mask \(48, 64\), got \(64, 48\)"):
        draw_overlay(grey(), empty(), truth=empty(64, 48))
    with pytest.raises(ValueError, match=r"or \(H, W, 3\), got \(48, 64, 4\)"):
        draw_overlay(grey(channels=4), empty())


def test_without_heat_the_image_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    picture = heat_overlay(image, np.zeros((7, 7), np.float32))
    assert (picture == np.concatenate([image, image], axis=1)).all()


def test_full_heat_covers_six_tenths_of_the_image_in_red() -> None:
    picture = heat_overlay(grey(channels=1), np.ones((3, 5), np.float32))
    red, green, blue = cv2.applyColorMap(np.full((1, 1), 255, np.uint8), cv2.COLORMAP_TURBO)[
        0, 0, ::-1
    ]
    assert red > 100 > max(green, blue)
    expected = [round(0.4 * GREY + 0.6 * int(value)) for value in (red, green, blue)]
    assert np.abs(picture[:, 64:].astype(int) - expected).max() <= 1
    assert (picture[:, :64] == GREY).all()


def test_heat_is_drawn_at_its_position() -> None:
    heat = np.zeros((6, 8), np.float32)
    heat[1, 6] = 1  # of 8x8 pixels each
    change = np.abs(heat_overlay(grey(), heat)[:, 64:].astype(int) - GREY).sum(axis=2)
    rows, columns = np.nonzero(change > change.max() / 2)
    assert rows.mean() == pytest.approx(11.5, abs=1)
    assert columns.mean() == pytest.approx(51.5, abs=1)
    assert not change[24:].any()


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_heat_outside_its_range_is_refused(value: float) -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[2, 2] = value
    with pytest.raises(ValueError, match=r"heat \(h, w\) in \[0, 1\]"):
        heat_overlay(grey(), heat)


@pytest.mark.parametrize("level", [0, 1, 6])
@pytest.mark.parametrize("shape", [(20, 31, 3), (20, 31, 1), (20, 31)])
def test_a_png_is_read_as_written(shape: tuple[int, ...], level: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(BytesIO(encode_png(pixels, level=level))) as image:
        assert image.format == "PNG"
        assert image.mode == ("RGB" if shape[2:] == (3,) else "L")
        assert (np.asarray(image).reshape(shape) == pixels).all()


def test_a_png_may_come_from_part_of_an_array() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)
    for part in (pixels[:, ::2], pixels[2:9, ::-1], pixels[..., 1]):
        assert (np.asarray(Image.open(BytesIO(encode_png(part)))) == part).all()


def test_a_mask_takes_less_than_a_hundredth_of_its_pixels() -> None:
    mask = empty(352, 352)
    cv2.circle(mask, (150, 180), 70, 255, -1)
    assert len(encode_png(mask)) < mask.size / 100


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 2), (4,), (2, 4, 4, 3)])
def test_invalid_pixels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected pixels \(H, W\), \(H, W, 1\) or \(H, W, 3\)"):
        encode_png(np.zeros(shape, np.uint8))


def test_predicting_loads_no_matplotlib_for_its_pictures() -> None:
    code = (
        "import sys; from medvision.reports.plots import overlays; "
        "print([name for name in ('matplotlib', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
