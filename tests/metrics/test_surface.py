"""Distances of outlines: the values of MONAI at the cost of the cropped lesion."""

import math
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from medvision.metrics import mean_defined, surface_distances
from medvision.types import IGNORE_INDEX

EDGES = {
    "inside": (slice(20, 50), slice(30, 44)),
    "top": (slice(0, 9), slice(20, 40)),
    "left": (slice(20, 40), slice(0, 9)),
    "bottom": (slice(50, 64), slice(20, 40)),
    "right": (slice(20, 40), slice(60, 72)),
    "corner": (slice(57, 64), slice(66, 72)),
    "one-from-the-border": (slice(1, 63), slice(1, 71)),
    "everything": (slice(None), slice(None)),
}


def rectangle(rows: slice, columns: slice, *, shape: tuple[int, int] = (64, 72)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 1
    return mask


def blobs(seed: int, *, num_classes: int = 2, shape: tuple[int, int] = (48, 61)) -> np.ndarray:
    """Smooth random regions, many of which touch the border."""
    rng = np.random.default_rng(seed)
    waves = np.kron(rng.random((-(-shape[0] // 6), -(-shape[1] // 6))), np.ones((6, 6)))
    return (waves[: shape[0], : shape[1]] * num_classes).astype(np.uint8)


def by_monai(predicted: np.ndarray, labelled: np.ndarray, *, num_classes: int = 2) -> np.ndarray:
    """HD95 and NSD of each foreground class from the whole masks, (2, K - 1)."""
    channels = [
        torch.from_numpy(np.stack([mask == k for k in range(num_classes)]))[None]
        for mask in (predicted, labelled)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.stack(
            [
                compute_hausdorff_distance(*channels, percentile=95)[0].numpy(),
                compute_surface_dice(*channels, [2.0] * (num_classes - 1))[0].numpy(),
            ]
        )


@pytest.mark.parametrize("labelled", EDGES)
@pytest.mark.parametrize("predicted", EDGES)
def test_cropping_changes_nothing(predicted: str, labelled: str) -> None:
    first, second = rectangle(*EDGES[predicted]), rectangle(*EDGES[labelled])
    found = surface_distances(first, second)
    assert found.pop("hd95_px_penalised") == found["hd95_px"]
    assert list(found) == ["hd95_px", "nsd_2px"]
    np.testing.assert_array_equal(list(found.values()), by_monai(first, second)[:, 0])


@pytest.mark.parametrize("seed", range(12))
def test_monai_agrees_on_ragged_masks(seed: int) -> None:
    first, second = blobs(seed), blobs(seed + 100)
    found = surface_distances(first, second)
    del found["hd95_px_penalised"]
    np.testing.assert_array_equal(list(found.values()), by_monai(first, second)[:, 0])


@pytest.mark.parametrize("seed", range(3))
def test_monai_agrees_on_every_class(seed: int) -> None:
    names = ("background", "disc", "cup", "vessel")
    first, second = (blobs(k, num_classes=4) for k in (seed, seed + 50))
    second[second == 3] = 0  # the third class is not labelled
    hd95, nsd = by_monai(first, second, num_classes=4)
    found = surface_distances(first, second, num_classes=4, class_names=names)
    assert [found[f"hd95_px/{name}"] for name in names[1:3]] == list(hd95[:2])
    np.testing.assert_array_equal([found["hd95_px/vessel"], hd95[2]], math.nan)
    assert [found[f"nsd_2px/{name}"] for name in names[1:]] == list(nsd)
    assert found["hd95_px"] == pytest.approx(hd95[:2].mean())
    assert found["nsd_2px"] == pytest.approx(nsd.mean())
    unnamed = surface_distances(first, second, num_classes=4)
    assert unnamed == {name: found[name] for name in ("hd95_px", "hd95_px_penalised", "nsd_2px")}


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 7])
def test_value_by_hand_of_two_shifted_squares(shift: int) -> None:
    square = rectangle(slice(10, 30), slice(10, 30))
    moved = np.roll(square, shift, axis=1)
    found = surface_distances(moved, square)
    # 76 pixels of outline; those of the two upright sides beyond the other are `shift` away, and
    # they are 20 of 76, more than 5 %: the 95th percentile is the shift itself
    assert found["hd95_px"] == shift
    # within 2 px: all up to a shift of 2; beyond it, of each horizontal side the 20 - shift pixels
    # that lie on the other and 2 more, and of the upright side inside the other the 2 + 2 pixels
    # that are not yet counted and have a horizontal side of the other within 2 px
    near = 76 if shift <= 2 else 2 * (20 - shift + 2) + 4
    assert found["nsd_2px"] == pytest.approx(near / 76)


def test_a_few_stray_pixels_do_not_change_the_percentile() -> None:
    labelled = rectangle(slice(10, 40), slice(10, 40))  # 116 pixels of outline
    predicted = labelled.copy()
    predicted[60, 60:65] = 1
    found = surface_distances(predicted, labelled)
    assert found["hd95_px"] == 0  # 5 of 121
    assert found["nsd_2px"] == pytest.approx((116 + 116) / (121 + 116))


def test_prediction_and_label_are_interchangeable() -> None:
    first, second = blobs(1), blobs(2)
    assert surface_distances(first, second) == surface_distances(second, first)


def test_a_larger_image_does_not_change_the_distances() -> None:
    first, second = blobs(3), blobs(4)
    padded = [np.pad(mask, ((5, 40), (9, 0))) for mask in (first, second)]
    assert surface_distances(*padded) == surface_distances(first, second)


def test_undefined_cases_are_those_of_monai() -> None:
    empty, some = np.zeros((64, 72), np.uint8), rectangle(*EDGES["inside"])
    nan = math.nan
    for pair, expected in {
        "missed": ((empty, some), (nan, 0)),
        "invented": ((some, empty), (nan, 0)),
        "neither": ((empty, empty), (nan, nan)),
        "one pixel missed": ((empty, rectangle(slice(0, 1), slice(0, 1))), (nan, 0)),
    }.values():
        distances = surface_distances(*pair)
        found = [distances["hd95_px"], distances["nsd_2px"]]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, by_monai(*pair)[:, 0])


def test_ignored_pixels_belong_to_neither_mask() -> None:
    labelled = rectangle(slice(10, 30), slice(10, 30))
    predicted = labelled.copy()
    predicted[40:60, 40:60] = 1
    labelled[35:, 35:] = IGNORE_INDEX
    assert surface_distances(predicted, labelled) == {
        "hd95_px": 0,
        "hd95_px_penalised": 0,
        "nsd_2px": 1,
    }
    nothing = np.full((8, 8), IGNORE_INDEX, np.uint8)
    assert all(math.isnan(v) for v in surface_distances(nothing * 0 + 1, nothing).values())


def test_the_mean_covers_defined_images_and_the_others_are_counted() -> None:
    assert mean_defined([1.0, math.nan, 4.0, math.inf]) == (2.5, 2)
    mean, undefined = mean_defined([math.nan] * 3)
    assert math.isnan(mean)
    assert undefined == 3
    assert mean_defined([])[1] == 0


def test_a_typical_pair_is_fast() -> None:
    rows, columns = np.ogrid[:352, :352]
    first = ((rows - 170) ** 2 + (columns - 180) ** 2 < 90**2).astype(np.uint8)
    second = np.roll(first, 4, axis=0)
    surface_distances(first, second)
    started_s = time.process_time()
    for _ in range(10):
        surface_distances(first, second)
    assert (time.process_time() - started_s) / 10 < 0.1  # 15 ms on an idle core


def test_wrong_arguments_are_named() -> None:
    mask = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"got \(4, 5\) and \(5, 4\)"):
        surface_distances(mask, mask.T)
    with pytest.raises(ValueError, match="expected predicted class indices, got float64"):
        surface_distances(mask.astype(float), mask)
    with pytest.raises(ValueError, match="expected predicted classes below 2, got 255"):
        surface_distances(mask + 255, mask)
    with pytest.raises(ValueError, match="expected labelled classes below 3, got 3"):
        surface_distances(mask, mask + 3, num_classes=3)
    with pytest.raises(ValueError, match="expected 3 class names, got 2"):
        surface_distances(mask, mask, num_classes=3, class_names=("a", "b"))
    with pytest.raises(ValueError, match="two or more classes, got 1"):
        surface_distances(mask, mask, num_classes=1)


def test_importing_the_module_does_not_import_monai() -> None:
    program = (
        "import sys; from medvision.metrics import surface_distances; "
        "print('monai' in sys.modules or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_a_missed_lesion_counts_as_the_diagonal() -> None:
    labelled = rectangle(*EDGES["inside"])
    missed = surface_distances(np.zeros_like(labelled), labelled)
    assert math.isnan(missed["hd95_px"])
    assert missed["hd95_px_penalised"] == math.hypot(64, 72)
    made_up = surface_distances(labelled, np.zeros_like(labelled))
    assert math.isnan(made_up["hd95_px_penalised"])
