"""Changed copies among pictures that share a frame: each kind is found, and nothing else."""

import cv2
import numpy as np
import pytest
from synthetic_faults.changes import Change, changed_shape, changed_values
from synthetic_faults.draws import Scenes

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
