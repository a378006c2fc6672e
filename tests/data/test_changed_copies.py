"""Changed copies among pictures that share a frame: each kind is found, and nothing else."""

import cv2
import numpy as np
import pytest
from synthetic_faults.changes import Change, changed_shape, changed_values
from synthetic_faults.draws import Scenes

from medvision.data.duplicates.alignment import Limits, Match, compare, is_same, view_of
from medvision.data.duplicates.search import NearDuplicates, find_near_duplicates
from medvision.data.validation.properties import content_box

ORIGINALS = 30
KINDS = [
    ("burned_in_text", 4),
    ("marker_and_arrow", 0),
    ("turned", 5),
    ("turned", 10),
    ("border_on_one_side", 20),
    ("bordered", 10),
    ("screenshot", 10),
    ("cropped_each_side", 15),
    ("half", 0),
    ("equalised", 0),
    ("clahe", 2),
    ("gamma", 2),
    ("inverted", 0),
]


@pytest.fixture(scope="module")
def found() -> NearDuplicates:
    """Near-duplicates of 30 drawn discs and two copies of each kind, each of another disc."""
    scenes = Scenes(drawn="retina", size_px=128, seed=0)
    pictures = [scenes.draw(index, index % 2)[0] for index in range(ORIGINALS)]
    for number in range(2 * len(KINDS)):
        kind, strength = KINDS[number // 2]
        change = Change(kind=kind, strength=strength, seed=number)
        pictures.append(changed_values(changed_shape(pictures[number], change), change))
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    whole, content = (
        np.stack([cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA) for p in parts])
        for parts in (grey, [each[content_box(each)] for each in grey])
    )
    return find_near_duplicates(whole, [str(k) for k in range(len(whole))], contents=content)


@pytest.mark.parametrize("place", range(len(KINDS)), ids=["_".join(map(str, k)) for k in KINDS])
def test_a_changed_copy_is_a_near_duplicate_of_its_source(
    found: NearDuplicates, place: int
) -> None:
    sources = np.array([2 * place, 2 * place + 1])
    assert (found.groups[ORIGINALS + sources] == found.groups[sources]).any()


def test_nine_in_ten_copies_are_found(found: NearDuplicates) -> None:
    assert (found.groups[ORIGINALS:] == found.groups[: 2 * len(KINDS)]).mean() >= 0.9


def test_different_pictures_in_one_frame_are_no_near_duplicates(found: NearDuplicates) -> None:
    assert len(set(found.groups[:ORIGINALS].tolist())) == ORIGINALS
    source = np.concatenate([np.arange(ORIGINALS), np.arange(2 * len(KINDS))])
    assert (source[found.first] == source[found.second]).all()


@pytest.mark.parametrize("ground", [236, 30])
def test_the_margin_of_a_screenshot_is_no_content(ground: int) -> None:
    picture = np.random.default_rng(0).integers(60, 200, (100, 120), np.uint8)
    shown = np.full((140, 160), ground, np.uint8)
    shown[20:120, 20:140] = picture
    cv2.putText(shown, "series 3", (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 128, 1)
    rows, columns = content_box(shown)
    assert abs(rows.start - 20) <= 2
    assert abs(rows.stop - 120) <= 2
    assert abs(columns.start - 20) <= 2
    assert abs(columns.stop - 140) <= 2


def test_a_lesion_on_plain_skin_has_the_same_content_with_and_without_a_margin() -> None:
    """Skin as plain as a border is no border, however small the lesion."""
    rng = np.random.default_rng(0)
    skin = cv2.GaussianBlur(rng.normal(0, 100, (120, 120)).astype(np.float32), (0, 0), 5)
    cv2.circle(skin, (60, 60), 9, -80, -1)
    picture = np.clip(skin + 180, 0, 255).astype(np.uint8)
    assert content_box(picture) == (slice(0, 120), slice(0, 120))
    for ground in (0, 128, 255):
        framed = cv2.copyMakeBorder(picture, 24, 24, 24, 24, cv2.BORDER_CONSTANT, value=ground)
        for side in content_box(framed.astype(np.uint8)):
            assert abs(side.start - 24) <= 2
            assert abs(side.stop - 144) <= 2


def test_a_noisy_dark_surround_is_no_content() -> None:
    rng = np.random.default_rng(0)
    picture = rng.normal(12, 3, (100, 100)).clip(0, 255).astype(np.uint8)
    picture[20:80, 10:90] = rng.integers(60, 200, (60, 80), np.uint8)
    rows, columns = content_box(picture)
    assert (abs(rows.start - 20), abs(rows.stop - 80)) <= (2, 2)
    assert (abs(columns.start - 10), abs(columns.stop - 90)) <= (2, 2)


def test_local_equalisation_keeps_the_order_of_grey_levels() -> None:
    rng = np.random.default_rng(1)

    def picture() -> np.ndarray:
        noise = rng.normal(0, 1, (192, 192)).astype(np.float32)
        mixed = 60 * cv2.GaussianBlur(noise, (0, 0), 6) * 6 + 100 * cv2.GaussianBlur(
            noise, (0, 0), 30
        )
        return np.clip(120 + mixed, 0, 255).astype(np.uint8)

    def thumbnail(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA), np.uint8)

    one, other = picture(), picture()
    equalised = cv2.createCLAHE(4, (8, 8)).apply(one)
    shared = np.zeros((48, 48), np.float32)
    views = [view_of(thumbnail(each), shared=shared) for each in (one, equalised, other)]
    assert compare(views[0], views[1], np.eye(2, 3)).order > 0.85
    assert compare(views[0], views[2], np.eye(2, 3)).order < 0.6


@pytest.mark.parametrize(
    ("detail", "shape", "order", "same"),
    [
        (0.95, 0.95, 0.8, True),
        (0.95, 0.99, 0.5, False),  # strong edges agree, as of two screenshots of one program
        (0.80, 0.90, 0.9, True),  # another tone curve in each part
        (0.80, 0.98, 0.5, True),  # noise
        (0.80, 0.90, 0.8, False),
    ],
)
def test_the_bands_that_decide(detail: float, shape: float, order: float, same: bool) -> None:
    match = Match(detail, shape, order, 1.0, 1.0, 1.0, np.eye(2, 3))
    assert is_same(match, Limits()) is same
