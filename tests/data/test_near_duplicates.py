from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from medvision.data import near_duplicates
from medvision.data.checks import check_images
from medvision.data.index import index_classification
from medvision.data.near_duplicates import count_crossing, twin_groups

SHARED = Path(__file__).parents[2].parent / "shared/data"


def noise(number: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 12, 12), np.uint8)


def by_the_formula(thumbnails: np.ndarray, threshold: float) -> list[int]:
    """Number the groups with numpy's own correlation and sets."""
    groups = [{k} for k in range(len(thumbnails))]
    for i, j in combinations(range(len(thumbnails)), 2):
        r = np.corrcoef(thumbnails[i].ravel(), thumbnails[j].ravel())[0, 1]
        if r >= threshold and groups[i] is not groups[j]:
            groups[i] |= groups[j]
            for k in groups[j]:
                groups[k] = groups[i]
    order: dict[int, int] = {}
    return [order.setdefault(id(group), len(order)) for group in groups]


def test_images_without_twins_are_groups_of_their_own_in_their_order() -> None:
    groups = twin_groups(noise(5))
    assert groups.tolist() == [0, 1, 2, 3, 4]
    assert groups.dtype == np.int64


def test_brightness_and_contrast_do_not_part_twins() -> None:
    one, other = noise(2) // 2
    thumbnails = np.stack([one, other, one + 100, other // 2])
    assert twin_groups(thumbnails, threshold=0.999).tolist() == [0, 1, 0, 1]


def test_mirrored_images_are_no_twins() -> None:
    (one,) = noise(1)
    assert twin_groups(np.stack([one, one[:, ::-1]])).tolist() == [0, 1]


def test_twins_of_twins_share_a_group() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 30, (6, 12, 12)).cumsum(axis=0) / 3 + noise(1)[0] / 2 + 60
    chain = steps.clip(0, 255).astype(np.uint8)
    flat = chain.reshape(6, -1)
    neighbours = min(np.corrcoef(flat)[k, k + 1] for k in range(5))
    assert np.corrcoef(flat)[0, 5] < neighbours  # the ends of the chain are less alike
    assert set(twin_groups(chain, threshold=neighbours)) == {0}


@pytest.mark.parametrize("block", [1, 3, 1024])
@pytest.mark.parametrize("threshold", [0.8, 0.95, 0.99])
def test_groups_are_those_of_the_formula_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, block: int, threshold: float
) -> None:
    rng = np.random.default_rng(1)
    originals = noise(12, seed=2).astype(float)
    copies = originals[rng.integers(0, 12, 28)] + rng.normal(0, 1, (28, 12, 12)) * rng.choice(
        [2.0, 10.0, 20.0, 45.0], (28, 1, 1)
    )
    thumbnails = np.concatenate([originals, copies]).clip(0, 255).astype(np.uint8)
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    expected = by_the_formula(thumbnails, threshold)
    assert 12 <= len(set(expected)) < 40
    assert twin_groups(thumbnails, threshold=threshold).tolist() == expected


def test_a_constant_thumbnail_is_the_twin_of_equal_ones_only() -> None:
    black, grey = np.zeros((12, 12), np.uint8), np.full((12, 12), 128, np.uint8)
    thumbnails = np.stack([grey, black, *noise(1), black, grey, grey + 1])
    assert twin_groups(thumbnails).tolist() == [0, 1, 2, 1, 0, 3]


def test_identical_images_are_twins_at_any_threshold() -> None:
    assert twin_groups(noise(50)[[*range(50), *range(50)]], threshold=1).tolist() == [
        *range(50),
        *range(50),
    ]


def test_no_images_have_no_groups() -> None:
    assert twin_groups(noise(0)).tolist() == []


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \(N, H, W\), got float64 \(2, 4, 4\)"):
        twin_groups(np.zeros((2, 4, 4)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got uint8 \(2, 4\)"):
        twin_groups(np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match=r"threshold in \(0, 1\], got 0"):
        twin_groups(noise(2), threshold=0)
    with pytest.raises(ValueError, match=r"expected \(2,\) splits, got \(1,\)"):
        count_crossing([0, 1], ["test"])


def test_what_crosses_is_counted_by_groups_and_by_images_of_test() -> None:
    splits = ["train", "test", "test", "train", "test", "val", "test", "train", "train"]
    groups = [0, 0, 0, 1, 1, 2, 2, 3, 3]  # 2 lies in val and test, 3 in train alone
    assert count_crossing(groups, splits) == (2, 3)
    assert count_crossing([], []) == (0, 0)


@pytest.mark.parametrize(
    ("name", "num_groups", "largest", "crossing"),
    [
        ("brain_tumor_mri", 289, 10, (200, 259)),
        pytest.param("chest_xray", 30, 3, (0, 0), marks=pytest.mark.slow),
    ],
)
def test_the_measured_groups_of_the_public_sets(
    name: str, num_groups: int, largest: int, crossing: tuple[int, int]
) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not on this machine")
    samples = index_classification(SHARED / name).samples
    thumbnails = check_images(SHARED / name, samples, channels=1, thumbnail_px=48).thumbnails
    assert thumbnails is not None
    groups = twin_groups(thumbnails)
    sizes = np.bincount(groups)
    assert ((sizes > 1).sum(), sizes.max()) == (num_groups, largest)
    assert count_crossing(groups, [sample.split for sample in samples]) == crossing
