from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from medvision.data.phantoms.brain import BRAIN_CLASSES, draw_brain
from medvision.data.phantoms.brushes import phantom_label
from medvision.data.phantoms.chest import CHEST_CLASSES, draw_chest

Draw = Callable[..., NDArray[np.uint8]]
Images = NDArray[np.uint8]

KINDS = [
    pytest.param(draw_chest, len(CHEST_CLASSES), id="chest"),
    pytest.param(draw_brain, len(BRAIN_CLASSES), id="brain"),
]
NO_TUMOR = BRAIN_CLASSES.index("no_tumor")
NUM_FITTED = 300


@pytest.fixture
def one_more_thread() -> Iterator[None]:
    """Use another number of OpenCV threads."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(before + 1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def labelled() -> dict[Draw, tuple[Images, NDArray[np.int64]]]:
    """450 images (N, 48, 48) of each kind and their labels (N,)."""

    def make(draw: Draw, num_classes: int) -> tuple[Images, NDArray[np.int64]]:
        labels = np.array([phantom_label(index, num_classes, 0) for index in range(450)])
        scenes = [draw(index, int(k), size_px=48, seed=0) for index, k in enumerate(labels)]
        return np.stack(scenes), labels

    return {draw: make(draw, k) for draw, k in ((draw_chest, 2), (draw_brain, 4))}


def local_contrast(images: Images) -> NDArray[np.floating]:
    """Peak and mean of bright and dark spots of three sizes in each cell of a 6 x 6 grid."""
    rows = []
    for image in images.astype(np.float32):
        levels = [cv2.GaussianBlur(image, (0, 0), s) / image.std() for s in (0.7, 1.4, 2.8, 5.6)]
        spots = np.stack([a - b for a, b in pairwise(levels)])
        cells = np.concatenate([spots, -spots]).clip(0).reshape(6, 6, 8, 6, 8)
        rows.append(np.concatenate([cells.max((2, 4)).ravel(), cells.mean((2, 4)).ravel()]))
    features = np.array(rows)
    return (features - features.mean(0)) / (features.std(0) + 1e-6)


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
@pytest.mark.parametrize("size_px", [16, 17, 101, 256, 300])
def test_image_is_square_grey_bytes_that_use_the_range(
    draw: Draw, num_classes: int, size_px: int
) -> None:
    for label in range(num_classes):
        image = draw(label, label, size_px=size_px, seed=0)
        assert image.shape == (size_px, size_px)
        assert image.dtype == np.uint8
        assert image.max() > 100
        assert image.min() < 60


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
def test_same_arguments_draw_the_same_pixels_in_any_order(draw: Draw, num_classes: int) -> None:
    calls = [(index, index % num_classes) for index in range(6)]
    forth = [draw(*call, size_px=64, seed=3) for call in calls]
    back = [draw(*call, size_px=64, seed=3) for call in reversed(calls)]
    np.testing.assert_array_equal(forth, back[::-1])


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
def test_number_of_threads_changes_no_pixel(
    draw: Draw, num_classes: int, request: pytest.FixtureRequest
) -> None:
    before = [draw(label, label, size_px=256, seed=0) for label in range(num_classes)]
    request.getfixturevalue("one_more_thread")
    again = [draw(label, label, size_px=256, seed=0) for label in range(num_classes)]
    np.testing.assert_array_equal(before, again)


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
def test_global_random_state_is_neither_read_nor_moved(draw: Draw, num_classes: int) -> None:
    np.random.seed(0)  # noqa: NPY002  the legacy state is what the test is about
    state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    image = draw(1, num_classes - 1, size_px=32, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(image, draw(1, num_classes - 1, size_px=32, seed=0))


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
def test_another_index_seed_or_label_draws_another_image(draw: Draw, num_classes: int) -> None:
    images = {
        draw(index, label, size_px=48, seed=seed).tobytes()
        for index in range(4)
        for seed in range(2)
        for label in range(num_classes)
    }
    assert len(images) == 8 * num_classes


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
@pytest.mark.parametrize(("small_px", "large_px"), [(32, 256), (64, 128), (150, 224)])
def test_one_index_shows_one_scene_at_every_size(
    draw: Draw, num_classes: int, small_px: int, large_px: int
) -> None:
    for index in range(8):
        small = draw(index, index % num_classes, size_px=small_px, seed=0)
        large = draw(index, index % num_classes, size_px=large_px, seed=0)
        fitted = cv2.resize(large, (small_px, small_px), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(small.ravel(), fitted.ravel())[0, 1] > 0.95
        assert np.abs(fitted.astype(float) - small).mean() < 8, "of 255 grey levels"


def test_pneumonia_only_brightens_and_only_within_the_lungs() -> None:
    for index in range(40):
        well, ill = (draw_chest(index, k, size_px=96, seed=0).astype(int) for k in (0, 1))
        assert (ill >= well).all()
        assert 0.01 < np.mean(ill > well) < 0.3, "share of the image"
        assert (ill - well).max() >= 8, "grey levels"
        changed = np.flatnonzero((ill > well).any(axis=0))
        assert 4 < changed[0] <= changed[-1] < 91, "nothing at the sides"


@pytest.mark.parametrize("name", [name for name in BRAIN_CLASSES if name != "no_tumor"])
def test_tumour_changes_one_place_and_the_rest_stays_the_same_slice(name: str) -> None:
    for index in range(40):
        without = draw_brain(index, NO_TUMOR, size_px=96, seed=0).astype(int)
        tumour = draw_brain(index, BRAIN_CLASSES.index(name), size_px=96, seed=0).astype(int)
        changed = tumour != without
        assert 0.001 < changed.mean() < 0.2, "share of the image"
        assert np.abs(tumour - without).max() >= 15, "grey levels"
        pieces, _, sizes, _ = cv2.connectedComponentsWithStats(
            cv2.dilate(changed.astype(np.uint8), np.ones((7, 7), np.uint8))
        )
        assert sizes[1:, cv2.CC_STAT_AREA].max() > 0.9 * sizes[1:, cv2.CC_STAT_AREA].sum(), pieces


def test_pituitary_tumour_is_smaller_than_the_other_tumours() -> None:
    def area(name: str) -> float:
        label, shares = BRAIN_CLASSES.index(name), []
        for index in range(40):
            pair = [draw_brain(index, k, size_px=64, seed=0) for k in (label, NO_TUMOR)]
            shares.append(np.mean(pair[0] != pair[1]))
        return float(np.median(shares))

    assert 2 * area("pituitary_tumor") < area("meningioma_tumor") < area("glioma_tumor")


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
def test_mean_and_spread_of_the_grey_levels_hardly_predict_the_class(
    labelled: dict[Draw, tuple[Images, NDArray[np.int64]]], draw: Draw, num_classes: int
) -> None:
    images, labels = labelled[draw]
    for values in (images.mean(axis=(1, 2)), images.std(axis=(1, 2))):
        for label in range(num_classes):
            assert 0.35 < roc_auc_score(labels == label, values) < 0.65


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
def test_the_most_similar_image_predicts_the_class_near_chance(
    labelled: dict[Draw, tuple[Images, NDArray[np.int64]]], draw: Draw, num_classes: int
) -> None:
    images, labels = labelled[draw]
    pixels = images.reshape(len(images), -1).astype(float)
    nearest = KNeighborsClassifier(1).fit(pixels[:NUM_FITTED], labels[:NUM_FITTED])
    accuracy = nearest.score(pixels[NUM_FITTED:], labels[NUM_FITTED:])
    assert abs(accuracy - 1 / num_classes) < 0.2


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
def test_local_contrast_predicts_the_class_well_above_chance(
    labelled: dict[Draw, tuple[Images, NDArray[np.int64]]], draw: Draw, num_classes: int
) -> None:
    images, labels = labelled[draw]
    features = local_contrast(images)
    model = RidgeClassifier(alpha=30).fit(features[:NUM_FITTED], labels[:NUM_FITTED])
    scores = model.decision_function(features[NUM_FITTED:]).reshape(len(images) - NUM_FITTED, -1)
    wanted = [1] if num_classes == 2 else range(num_classes)  # two classes have one score
    for label, score in zip(wanted, scores.T, strict=True):
        assert roc_auc_score(labels[NUM_FITTED:] == label, score) > 0.72
    assert model.score(features[NUM_FITTED:], labels[NUM_FITTED:]) > 1 / num_classes + 0.18


@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_labels_are_balanced_and_every_class_is_near(num_classes: int) -> None:
    labels = [phantom_label(index, num_classes, 5) for index in range(60 * num_classes)]
    assert np.bincount(labels).tolist() == [60] * num_classes
    span = 2 * num_classes - 1
    for start in range(len(labels) - span + 1):
        assert set(labels[start : start + span]) == set(range(num_classes))


def test_labels_follow_the_seed_and_no_fixed_cycle() -> None:
    rows = [[phantom_label(index, 4, seed) for index in range(40)] for seed in (0, 1, 0)]
    assert rows[0] == rows[2] != rows[1]
    assert len({tuple(rows[0][block : block + 4]) for block in range(0, 40, 4)}) > 1


@pytest.mark.parametrize(("draw", "num_classes"), KINDS)
@pytest.mark.parametrize(
    ("index", "label", "size_px", "seed", "message"),
    [
        (-1, 0, 64, 0, "expected index of 0 or greater, got -1"),
        (0, 0, 15, 0, "expected size_px of 16 or greater, got 15"),
        (0, 0, 64, -2, "expected seed of 0 or greater, got -2"),
        (0, -1, 64, 0, r"expected label in \[0, {}\), got -1"),
        (0, 4, 64, 0, r"expected label in \[0, {}\), got 4"),
    ],
)
def test_argument_out_of_range_is_named(
    draw: Draw, num_classes: int, index: int, label: int, size_px: int, seed: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message.format(num_classes)}$"):
        draw(index, label, size_px=size_px, seed=seed)


def test_label_of_no_classes_is_named() -> None:
    with pytest.raises(ValueError, match=r"^expected num_classes of 1 or greater, got 0$"):
        phantom_label(0, 0, 0)
