from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.data.duplicates import alignment, candidates
from medvision.data.duplicates import search as look_alikes
from medvision.data.duplicates.alignment import Match, compare
from medvision.data.duplicates.search import (
    RELATIONS,
    NearDuplicates,
    count_crossing,
    find_near_duplicates,
)
from medvision.data.phantoms.brain import draw_brain
from medvision.data.reading import Reading
from medvision.data.validation.validate import check_files

SHARED = Path(__file__).parents[2].parent / "shared/data"


def pictures(number: int, *, seed: int = 0, size_px: int = 48) -> np.ndarray:
    """Blurred noise, as smooth as thumbnails of photographs, and all different."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, (number, size_px, size_px))
    drawn = [cv2.GaussianBlur(plane, (0, 0), size_px / 16) for plane in noise]
    scaled = [cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX) for picture in drawn]
    return np.array(scaled, np.uint8).reshape(number, size_px, size_px)


def search(thumbnails: np.ndarray, **options: float) -> NearDuplicates:
    return find_near_duplicates(thumbnails, [str(k) for k in range(len(thumbnails))], **options)


def relations(found: NearDuplicates) -> list[tuple[int, int, str]]:
    return [
        (int(a), int(b), RELATIONS[k])
        for a, b, k in zip(found.first, found.second, found.relation, strict=True)
    ]


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


def test_images_without_near_duplicates_are_separate_groups_in_order() -> None:
    found = search(pictures(5))
    assert found.groups.tolist() == [0, 1, 2, 3, 4]
    assert found.groups.dtype == np.int64
    assert relations(found) == []


def test_brightness_and_contrast_do_not_separate_near_duplicates() -> None:
    one, other = pictures(2) // 2
    found = search(np.stack([one, other, one + 100, other // 2]), threshold=0.999)
    assert found.groups.tolist() == [0, 1, 0, 1]
    assert relations(found) == [(0, 2, "same"), (1, 3, "same")]


def test_mirrored_and_rotated_images_are_near_duplicates_with_their_relation() -> None:
    one, other = pictures(2)
    changed = [one[:, ::-1], one[::-1], one.T, np.rot90(one), np.rot90(one, 2), np.rot90(one, 3)]
    for copy, relation in zip(changed, ["mirrored"] * 3 + ["rotated"] * 3, strict=True):
        assert relations(search(np.stack([one, other, copy]))) == [(0, 2, relation)]


@pytest.mark.parametrize("share", [0.03, 0.06, 0.1])
def test_a_crop_at_any_position_is_a_near_duplicate_of_its_source(share: float) -> None:
    sources = pictures(40, seed=3, size_px=192)
    removed = round(192 * share)
    rng = np.random.default_rng(0)
    cuts = []
    for source in sources:
        y, x = rng.integers(0, removed + 1, 2)
        cuts.append(source[y : y + 192 - removed, x : x + 192 - removed])
    small = [cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA) for p in [*sources, *cuts]]
    found = search(np.stack(small))
    assert set(found.groups[:40]) == set(range(40))
    assert (found.groups[40:] == found.groups[:40]).mean() >= 0.95
    if share > 0.05:
        assert {RELATIONS[k] for k in found.relation} == {"cropped"}


@pytest.mark.parametrize(
    ("gain", "offset", "gamma"),
    [
        (1.4, 0, 1),
        (1, -40, 1),
        (1, 0, 0.7),
        *(pytest.param(*g, marks=pytest.mark.slow) for g in [(0.6, 0, 1), (1, 60, 1), (1, 0, 1.4)]),
    ],
)
def test_a_picture_with_another_tone_and_clipped_highlights_is_a_near_duplicate(
    gain: float, offset: float, gamma: float
) -> None:
    sources = pictures(24, seed=6)
    toned = 255 * (sources[:12] / 255) ** gamma * gain + offset
    found = search(np.concatenate([sources, np.rint(toned.clip(0, 255)).astype(np.uint8)]))
    assert found.groups.tolist() == [*range(24), *range(12)]


def test_a_crop_is_found_among_many_similar_images_that_are_not_near_duplicates() -> None:
    """Similar pictures with small individual differences, like chest X-rays."""
    (common,) = pictures(1, size_px=192).astype(float)
    own = pictures(100, seed=5, size_px=192).astype(float)
    sources = (0.7 * common + 0.3 * own).astype(np.uint8)
    cuts = sources[:20, 4:-12, 11:-5]
    small = [cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA) for p in [*sources, *cuts]]
    found = search(np.stack(small))
    assert (found.groups[100:] == found.groups[:20]).mean() > 0.95
    assert len(set(found.groups[:100])) == 100


def test_equal_pixels_are_identical_for_any_content() -> None:
    black, grey = np.zeros((48, 48), np.uint8), np.full((48, 48), 128, np.uint8)
    thumbnails = np.stack([grey, black, *pictures(1), black, grey, grey])
    found = find_near_duplicates(thumbnails, ["g", "b", "p", "b", "g", "another grey"])
    assert found.groups.tolist() == [0, 1, 2, 1, 0, 3]
    assert relations(found) == [(0, 4, "identical"), (1, 3, "identical")]
    assert found.similarity.tolist() == [1, 1]


def test_near_duplicates_of_near_duplicates_share_a_group() -> None:
    rng = np.random.default_rng(0)
    (start,) = pictures(1).astype(float)
    steps = [cv2.GaussianBlur(rng.normal(0, 60, (48, 48)), (0, 0), 3) for _ in range(6)]
    chain = (start / 2 + 60 + np.cumsum(steps, axis=0)).clip(0, 255).astype(np.uint8)
    flat = np.corrcoef(chain.reshape(6, -1))
    neighbours = min(flat[k, k + 1] for k in range(5))
    assert flat[0, 5] < neighbours  # the ends of the chain are less similar
    assert set(search(chain, threshold=neighbours).groups) == {0}


@pytest.mark.parametrize(
    ("block", "threshold"),
    [
        (3, 0.99),
        (1024, 0.995),
        *(
            pytest.param(*given, marks=pytest.mark.slow)
            for given in [(1, 0.99), (1024, 0.99), (1, 0.995), (3, 0.995)]
        ),
    ],
)
def test_groups_are_those_of_the_formula_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, block: int, threshold: float
) -> None:
    rng = np.random.default_rng(1)
    originals = pictures(12, seed=2).astype(float)
    copies = originals[rng.integers(0, 12, 28)] + rng.normal(0, 1, (28, 48, 48)) * rng.choice(
        [1.0, 4.0, 40.0, 90.0], (28, 1, 1)
    )
    thumbnails = np.concatenate([originals, copies]).clip(0, 255).astype(np.uint8)
    monkeypatch.setattr(look_alikes, "_BLOCK", block)
    expected = by_the_formula(thumbnails, threshold)
    assert 12 <= len(set(expected)) < 40
    waves = look_alikes.coefficients(thumbnails)
    candidates = look_alikes.near_in_any_position(waves, squared=2 - 2 * threshold)
    pairs = set(zip(*(rows.tolist() for rows in candidates), strict=True))
    flat = np.corrcoef(thumbnails.reshape(40, -1))
    near = {(i, j) for i, j in combinations(range(40), 2) if flat[i, j] >= threshold}
    assert near <= pairs
    found = search(thumbnails, threshold=threshold)
    plain = {(a, b) for a, b, relation in relations(found) if relation == "same"}
    assert near <= plain
    assert {expected[a] for a, _ in near} <= {expected[b] for _, b in plain}


def test_coefficients_keep_distances_or_shorten_them() -> None:
    thumbnails = pictures(20, seed=4)
    waves = look_alikes.coefficients(thumbnails).reshape(20, -1)
    whole = look_alikes.unit_vectors(thumbnails).reshape(20, -1)
    for i, j in combinations(range(20), 2):
        true = np.linalg.norm(whole[i] - whole[j])
        assert 0.9 * true < np.linalg.norm(waves[i] - waves[j]) <= true + 1e-5


def test_many_equal_pictures_make_one_group_and_few_pairs() -> None:
    rng = np.random.default_rng(0)
    (one,) = pictures(1)
    noisy = one + rng.integers(0, 3, (41, 48, 48))
    found = search(np.concatenate([noisy.clip(0, 255).astype(np.uint8), pictures(3, seed=9)]))
    assert found.groups.tolist() == [0] * 41 + [1, 2, 3]
    assert len(found.first) <= 16 * 41


@pytest.mark.parametrize("most", [10_000, 0], ids=["all at once", "in clusters"])
def test_the_nearest_are_those_of_a_full_sort(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(candidates, "EXHAUSTIVE", most)
    monkeypatch.setattr(candidates, "_PROBED", 1)  # every cluster
    monkeypatch.setattr(candidates, "_BLOCK", 32)
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    parts = [*candidates._nearest(vectors[:150], vectors, everything=False)]
    one, other, cosine = (np.concatenate(column) for column in zip(*parts, strict=True))
    expected = set()
    for row, cosines in enumerate(vectors[:150] @ vectors.T):
        order = [k for k in np.argsort(-cosines).tolist() if k != row][:3]
        expected |= {(row, k) for k in order if cosines[k] > candidates._MIN_COSINE}
    assert set(zip(one.tolist(), other.tolist(), strict=True)) == expected
    np.testing.assert_allclose(cosine, (vectors[one] * vectors[other]).sum(1), atol=1e-6)


def test_copies_are_found_in_a_set_too_large_to_compare_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = 0

    def counted(*args: Any, **kwargs: Any) -> Match:
        nonlocal measured
        measured += 1
        return compare(*args, **kwargs)

    monkeypatch.setattr(alignment, "compare", counted)
    monkeypatch.setattr(candidates, "_PROBED", 0.5)
    monkeypatch.setattr(look_alikes, "_AT_ONCE", 8)
    originals = np.stack([draw_brain(k, 0, size_px=48, seed=0) for k in range(80)])
    cut = [cv2.resize(picture[3:45, 3:45], (48, 48)) for picture in originals[:6]]
    toned = 255 * (originals[6:12] / 255) ** 1.6
    everything = np.concatenate([originals, cut, toned.astype(np.uint8)])
    expected = [*range(80), *range(12)]
    assert search(everything).groups.tolist() == expected
    in_small_set, measured = measured, 0
    for module in (candidates, look_alikes):
        monkeypatch.setattr(module, "EXHAUSTIVE", 60)
    assert search(everything).groups.tolist() == expected
    assert measured < 0.5 * in_small_set


def test_no_images_have_no_groups() -> None:
    assert search(pictures(0)).groups.tolist() == []
    assert search(pictures(1)).groups.tolist() == [0]


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \(N, S, S\), got float64 \(2, 4, 4\)"):
        search(np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"got uint8 \(2, 4\)"):
        search(np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match=r"threshold in \(0, 1\], got 0"):
        search(pictures(2), threshold=0)
    with pytest.raises(ValueError, match="expected 2 hashes, got 1"):
        find_near_duplicates(pictures(2), ["a"])
    with pytest.raises(ValueError, match=r"expected \(2,\) splits, got \(1,\)"):
        count_crossing([0, 1], ["test"])


def test_groups_across_splits_are_counted_with_their_test_images() -> None:
    splits = ["train", "test", "test", "train", "test", "val", "test", "train", "train"]
    groups = [0, 0, 0, 1, 1, 2, 2, 3, 3]  # 2 lies in val and test, 3 in train alone
    assert count_crossing(groups, splits) == (2, 3)
    assert count_crossing([], []) == (0, 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("brain_tumor_mri", "kvasir_seg", "chest_xray")
    ],
)
def test_the_near_duplicates_of_the_public_sets_are_the_measured_ones(name: str) -> None:
    root = SHARED / name
    if not root.is_dir():
        pytest.skip(f"{name} is not on this machine")
    if name == "kvasir_seg":
        samples = index_segmentation(root).samples
        facts = check_files(root, samples, Reading(num_classes=2)).properties
    else:
        samples = index_classification(root).samples
        facts = check_files(root, samples, Reading()).properties
    assert facts is not None
    found = find_near_duplicates(facts.thumbnail, facts.pixel_hash, contents=facts.content)
    kinds = {kind: int((found.relation == k).sum()) for k, kind in enumerate(RELATIONS)}
    crossing = count_crossing(found.groups, [sample.split for sample in samples])
    if name == "kvasir_seg":  # eighteen pairs, each the same polyp by eye
        assert (kinds["same"], kinds["cropped"], sum(kinds.values())) == (4, 14, 18)
        assert crossing == (3, 3)
    elif name == "chest_xray":  # three pairs besides, each of one child and next in number
        assert (kinds["identical"], kinds["cropped"], sum(kinds.values())) == (32, 2, 35)
        assert crossing == (0, 0)
    else:
        assert kinds["identical"] == 394  # 3264 files, 2870 pictures
        assert kinds["mirrored"] == kinds["rotated"] == 0
        assert 259 <= crossing[1] <= 275
