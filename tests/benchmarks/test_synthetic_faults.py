import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_faults.changes import (
    STRENGTHS,
    Change,
    changed_file,
    changed_shape,
    changed_values,
    encode,
)
from synthetic_faults.damage import CORRUPTIONS, MASK_FAULTS, faulty_mask
from synthetic_faults.draws import CLASSES, class_counts
from synthetic_faults.generate import GROUP_PATTERN, TRUTH_FILE, Truth, plant
from synthetic_faults.plan import Copies, Plan, Shortcut, copies_of_each

from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.data.readers.images import read_image, read_mask
from medvision.errors import MedvisionError

PLAIN = ("resized", "recompressed", "brightness", "offset", "contrast", "noise", "cropped",
         "mirrored_left_right", "mirrored_up_down", "rotated", "turned")  # fmt: skip
KINDS = [(kind, strength) for kind in STRENGTHS for strength in STRENGTHS[kind]]
ALL_OF_BRAIN = Plan(
    drawn="brain",
    train=90,
    test=30,
    size_px=32,
    suffix=".jpg",
    test_shares=(1, 1, 1, 3),
    images_per_patient=3,
    shared_patients=4,
    look_alikes=6,
    copies=(
        *copies_of_each(("same_bytes", "same_pixels"), across=3, in_train=2, in_test=1),
        *copies_of_each(("cropped",), across=1),
        *(Copies(kind="turned", strength=degrees, across=1) for degrees in (2, 5)),
        Copies(kind="brightness", strength=-20, across=4, conflict=True),
    ),
    wrong_labels=5,
    shortcuts=(
        Shortcut(kind="border", label=0, train=6, test=2),
        Shortcut(kind="size", label=1, train=7),
        Shortcut(kind="quality", label=2, train=8),
        Shortcut(kind="format", label=2, train=3),
    ),
    constant=4,
    corrupt=5,
)
ALL_OF_POLYPS = Plan(
    drawn="polyps",
    train=70,
    test=30,
    size_px=32,
    copies=(
        *copies_of_each(PLAIN, across=1, in_test=0),
        Copies(kind="clahe", strength=2, across=1),
        Copies(kind="same_bytes", across=3, conflict=True),
    ),
    wrong_labels=4,
    mask_faults=dict.fromkeys(MASK_FAULTS, 2),
    constant=2,
)


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    root = tmp_path_factory.mktemp("brain") / "data"
    return root, plant(root, ALL_OF_BRAIN)


@pytest.fixture(scope="module")
def polyps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    root = tmp_path_factory.mktemp("polyps") / "data"
    return root, plant(root, ALL_OF_POLYPS)


def files_of(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def mask_of(root: Path, image: str) -> Path:
    return (root / image.replace("/images/", "/masks/")).with_suffix(".png")


def pixels(root: Path, name: str, channels: int = 1) -> np.ndarray:
    return read_image(root / name, channels=channels)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


@pytest.mark.parametrize("drawn", CLASSES)
def test_a_seed_decides_every_byte(drawn: str, tmp_path: Path) -> None:
    folders = []
    for number, seed in enumerate([0, 0, 1]):
        copies = copies_of_each(("noise", "cropped", "same_pixels"), across=1)
        plan = Plan(drawn=drawn, train=8, test=4, size_px=24, seed=seed, copies=copies, corrupt=3)
        (tmp_path / str(number)).mkdir()
        plant(tmp_path / str(number) / "data", plan)
        folders.append(files_of(tmp_path / str(number)))
    assert folders[0] == folders[1]
    assert folders[0] != folders[2]


def test_the_truth_is_stored_beside_the_data_and_covers_every_file(
    brain: tuple[Path, Truth],
) -> None:
    root, truth = brain
    assert json.loads((root.parent / TRUTH_FILE).read_text()) == json.loads(
        json.dumps(asdict(truth))
    )
    names = list(files_of(root))
    assert truth.num_images == {"train": 90 + 4 + 5, "test": 30 + 17 + 4}
    assert Counter(name.split("/")[0] for name in names) == truth.num_images
    reported = {
        split: dict(Counter(name.split("/")[1] for name in names if name.startswith(split)))
        for split in ("train", "test")
    }
    assert reported == truth.num_of_class
    about = [pair.copy for pair in truth.pairs] + [pair.source for pair in truth.pairs]
    about += [*truth.wrong_labels, *truth.shortcuts, *truth.constant, *truth.corrupt]
    about += [name for pair in truth.look_alikes for name in pair[:2]]
    about += [name for images in truth.shared_patients.values() for name in images]
    assert set(about) <= set(names)


def test_everything_is_planted_in_the_stated_numbers(brain: tuple[Path, Truth]) -> None:
    _, truth = brain
    counts = Counter((p.kind, p.source[:2], p.copy[:2], p.conflict) for p in truth.pairs)
    for kind in ("same_bytes", "same_pixels"):
        assert counts[kind, "tr", "te", False] == 3
        assert counts[kind, "tr", "tr", False] == 2
        assert counts[kind, "te", "te", False] == 1
    assert counts["cropped", "tr", "te", False] == 3
    assert counts["turned", "tr", "te", False] == 2
    assert counts["brightness", "tr", "te", True] == 4
    assert counts.total() == len(truth.pairs) == 21
    assert all(p.crosses == (p.source[:2] != p.copy[:2]) for p in truth.pairs)
    assert len(truth.look_alikes) == 6
    assert len(truth.shared_patients) == 4
    assert len(truth.wrong_labels) == 5
    assert Counter(truth.shortcuts.values()) == {"border": 8, "size": 7, "quality": 8, "format": 3}
    assert len(truth.constant) == 4
    assert Counter(truth.corrupt.values()) == {"truncated": 2, "no_bytes": 2, "text": 1}


def test_no_image_serves_two_purposes(brain: tuple[Path, Truth]) -> None:
    _, truth = brain
    roles = [p.source for p in truth.pairs] + [p.copy for p in truth.pairs]
    roles += [*truth.wrong_labels, *truth.constant, *truth.corrupt]
    assert len(roles) == len(set(roles))


def test_class_folders_are_read_as_they_were_planted(brain: tuple[Path, Truth]) -> None:
    root, truth = brain
    index = index_classification(root, group_pattern=GROUP_PATTERN)
    assert tuple(index.class_names) == truth.class_names
    assert Counter(s.split for s in index.samples) == truth.num_images
    splits: dict[str, set[str]] = {}
    for sample in index.samples:
        splits.setdefault(sample.group, set()).add(sample.split)
    assert {g for g, both in splits.items() if len(both) > 1} == set(truth.shared_patients)
    for patient, images in truth.shared_patients.items():
        assert sorted(images) == sorted(s.path for s in index.samples if s.group == patient)


def test_pairs_of_images_and_masks_are_read_as_they_were_planted(
    polyps: tuple[Path, Truth],
) -> None:
    root, truth = polyps
    index = index_segmentation(root)
    assert Counter(s.split for s in index.samples) == truth.num_images == {"train": 71, "test": 72}


def test_equal_bytes_and_equal_pixels_are_equal(brain: tuple[Path, Truth]) -> None:
    root, truth = brain
    for pair in truth.pairs:
        same_bytes = (root / pair.source).read_bytes() == (root / pair.copy).read_bytes()
        assert same_bytes == (pair.kind == "same_bytes")
        equal = np.array_equal(pixels(root, pair.source), pixels(root, pair.copy))
        assert equal == pair.kind.startswith("same_")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_same_pixels_in_other_bytes(suffix: str, seed: int, tmp_path: Path) -> None:
    data = encode(np.stack([noise(9, 7), noise(9, 7), noise(9, 7) // 2], axis=2), suffix)
    copy, other = changed_file(data, Change(kind="same_pixels", strength=0, seed=seed))
    assert copy != data
    (tmp_path / f"a{suffix}").write_bytes(data)
    (tmp_path / f"b{other}").write_bytes(copy)
    names = [f"a{suffix}", f"b{other}"]
    assert np.array_equal(*[pixels(tmp_path, name, channels=3) for name in names])


def test_drawn_images_are_never_equal_by_themselves(brain: tuple[Path, Truth]) -> None:
    root, truth = brain
    copies = {pair.copy for pair in truth.pairs} | set(truth.corrupt)
    drawn = [name for name in files_of(root) if name not in copies]
    assert len({pixels(root, name).tobytes() for name in drawn}) == len(drawn) == 124


def test_similar_images_are_different_draws_of_a_class_with_the_stated_correlation(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    truth = plant(root, Plan(drawn="chest", train=20, test=10, size_px=48, look_alikes=5))
    vectors = {name: pixels(root, name).ravel() for name in files_of(root)}
    assert len(truth.look_alikes) == len({each[1] for each in truth.look_alikes}) == 5
    usual = np.median(np.corrcoef(list(vectors.values())))
    for one, other, stated in truth.look_alikes:
        assert one.split("/")[1] == other.split("/")[1]
        r = np.corrcoef(vectors[one], vectors[other])[0, 1]
        assert usual < r < 0.99
        assert r == pytest.approx(stated, abs=1e-4)


def test_a_conflicting_copy_has_another_class(brain: tuple[Path, Truth]) -> None:
    _, truth = brain
    for pair in truth.pairs:
        classes = {name.split("/")[1] for name in (pair.source, pair.copy)}
        assert (len(classes) == 2) == pair.conflict


def test_a_wrong_label_is_in_the_folder_of_another_class(brain: tuple[Path, Truth]) -> None:
    _, truth = brain
    for name, true in truth.wrong_labels.items():
        split, stored, _ = name.split("/")
        assert split == "train"
        assert true in truth.class_names
        assert true != stored


def test_the_prior_shifts_as_stated(tmp_path: Path) -> None:
    plan = Plan(
        drawn="chest", train=30, test=20, size_px=16, train_shares=(1, 2), test_shares=(3, 1)
    )
    truth = plant(tmp_path / "data", plan)
    assert truth.num_of_class == {
        "train": {"NORMAL": 10, "PNEUMONIA": 20},
        "test": {"NORMAL": 15, "PNEUMONIA": 5},
    }


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [(10, (1, 1, 1), [4, 3, 3]), (7, (0.5, 0.25, 0.25), [3, 2, 2]), (3, (0, 1), [0, 3])],
)
def test_shares_become_counts_that_add_up(
    count: int, shares: tuple[float, ...], expected: list[int]
) -> None:
    assert class_counts(count, shares) == expected


def test_shortcuts_show_in_the_files_of_their_class(brain: tuple[Path, Truth]) -> None:
    root, truth = brain
    copies = {pair.copy for pair in truth.pairs}
    for name in set(files_of(root)) - copies - set(truth.corrupt) - set(truth.constant):
        image, kind = pixels(root, name)[..., 0], truth.shortcuts.get(name)
        frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(int)
        assert (np.abs(frame - 200).max() < 60) == (kind == "border")
        assert image.shape == ((40, 40) if kind == "size" else (32, 32))
        assert name.endswith(".png") == (kind == "format")
        if kind is not None and name not in truth.wrong_labels:
            label = truth.class_names.index(name.split("/")[1])
            assert label == {"border": 0, "size": 1, "quality": 2, "format": 2}[kind]


def test_constant_images_differ_and_corrupt_files_cannot_be_read(
    brain: tuple[Path, Truth],
) -> None:
    root, truth = brain
    levels = [np.unique(pixels(root, name)).tolist() for name in truth.constant]
    assert all(len(level) == 1 for level in levels)
    assert len({level[0] for level in levels}) == len(levels)
    for name in truth.corrupt:
        with pytest.raises(MedvisionError):
            read_image(root / name, channels=1)
    assert set(truth.corrupt.values()) == set(CORRUPTIONS)


def test_masks_follow_their_images(polyps: tuple[Path, Truth]) -> None:
    root, truth = polyps
    seen = set()
    for pair in truth.pairs:
        source, copy = (read_mask(mask_of(root, name)) for name in (pair.source, pair.copy))
        shape = pixels(root, pair.copy).shape[:2]
        assert copy.shape == shape
        if pair.conflict:
            assert copy.any()
            assert not np.array_equal(source, copy)
            continue
        seen.add((pair.kind, pair.strength))
        if pair.kind == "resized":
            assert shape == (round(32 * pair.strength),) * 2
        elif pair.kind == "cropped":
            assert shape == (32 - round(0.32 * pair.strength),) * 2
        elif pair.kind == "mirrored_left_right":
            assert np.array_equal(copy, source[:, ::-1])
        elif pair.kind == "mirrored_up_down":
            assert np.array_equal(copy, source[::-1])
        elif pair.kind == "rotated":
            assert np.array_equal(copy, np.rot90(source, pair.strength // 90))
        elif pair.kind != "turned":
            assert np.array_equal(copy, source)
    assert seen == {(k, s) for k in PLAIN for s in STRENGTHS[k]} | {("clahe", 2)}


def test_masks_have_the_faults_that_are_stated(polyps: tuple[Path, Truth]) -> None:
    root, truth = polyps
    assert Counter(truth.mask_faults.values()) == dict.fromkeys(MASK_FAULTS, 2)
    images = {name for name in files_of(root) if "/images/" in name}
    for name in images:
        fault = truth.mask_faults.get(name)
        values = cv2.imread(str(mask_of(root, name)), cv2.IMREAD_UNCHANGED)
        found = set(np.unique(values).tolist())
        grey = ((values > 16) & (values < 239)).mean()
        assert (found == {0}) == (fault == "empty")
        assert (found == {255}) == (fault == "full")
        assert (grey > 0.02) == (fault == "grey")
        assert (values.shape != pixels(root, name).shape[:2]) == (fault == "size")
        assert (found == {0, 1, 2}) == (fault == "values")
        if fault is None:
            assert found == {0, 255}


def test_faults_of_a_mask_by_hand() -> None:
    mask = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1]], np.uint8)
    assert faulty_mask(mask, "empty").tolist() == [[0, 0, 0]] * 3
    assert faulty_mask(mask, "full").tolist() == [[255] * 3] * 3
    assert faulty_mask(mask, "inverted").tolist() == [[255] * 3, [255, 0, 255], [255, 0, 0]]
    assert faulty_mask(mask, "values").tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 2]]
    assert faulty_mask(mask, "size").tolist() == [
        [0, 0, 0, 0],
        [0, 255, 0, 0],
        [0, 255, 255, 255],
        [0, 255, 255, 255],
    ]
    with pytest.raises(ValueError, match=r"expected a fault of empty, full, .*, got torn"):
        faulty_mask(mask, "torn")


def test_brightness_contrast_and_gamma_by_hand() -> None:
    image = np.array([[0, 100], [140, 240]], np.uint8)

    def seen(kind: str, strength: float) -> list[list[int]]:
        return changed_values(image, Change(kind=kind, strength=strength)).tolist()

    assert seen("brightness", 20) == [[0, 120], [168, 255]]
    assert seen("brightness", -10) == [[0, 90], [126, 216]]
    assert seen("offset", 20) == [[51, 151], [191, 255]]
    assert seen("contrast", 0.5) == [[60, 110], [130, 180]]  # about the mean, 120
    assert seen("gamma", 2) == [[0, 39], [77, 226]]
    assert seen("resized", 2) == image.tolist()


def test_noise_has_the_stated_deviation() -> None:
    grey = np.full((200, 200), 128, np.uint8)
    noisy = changed_values(grey, Change(kind="noise", strength=10, seed=3))
    assert noisy.std() == pytest.approx(10, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.2)


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.3, 0.8), (0.999, 0.999)])
def test_a_crop_is_a_window_of_its_source(place: tuple[float, float]) -> None:
    image = noise(200, 100)
    cut = changed_shape(image, Change(kind="cropped", strength=10, place=place))
    assert cut.shape == (180, 90)
    windows = np.lib.stride_tricks.sliding_window_view(image, (180, 90))
    rows, columns = np.nonzero(
        (windows[..., 0, 0] == cut[0, 0]) & (windows[..., 5, 7] == cut[5, 7])
    )
    assert any(
        np.array_equal(windows[row, column], cut) for row, column in zip(rows, columns, strict=True)
    )


@pytest.mark.parametrize(("kind", "strength"), KINDS)
def test_every_change_except_recompression_keeps_the_file_format(
    kind: str, strength: float
) -> None:
    for suffix in (".png", ".jpg"):
        _, found = changed_file(encode(noise(20, 30), suffix), Change(kind=kind, strength=strength))
        assert found in ({".jpg"} if kind == "recompressed" else {suffix, ".bmp", ".tif"})


def test_an_invalid_plan_is_refused() -> None:
    with pytest.raises(
        ValueError, match="expected drawn to be one of brain, chest, polyps, retina"
    ):
        Plan(drawn="knees")
    with pytest.raises(ValueError, match=r"expected kind to be one of same_bytes, .*, got melted"):
        Copies(kind="melted")
    with pytest.raises(ValueError, match="expected across of 0 or greater, got -1"):
        Copies(kind="same_bytes", across=-1)
    with pytest.raises(ValueError, match="expected 4 shares, not all of them 0, got"):
        Plan(drawn="brain", test_shares=(1, 2))
    with pytest.raises(ValueError, match="expected no mask_faults for chest"):
        Plan(drawn="chest", mask_faults={"empty": 1})
    with pytest.raises(ValueError, match=r"expected suffix \.jpg for the shortcut quality"):
        Plan(shortcuts=(Shortcut(kind="quality", label=0, train=1),))
    with pytest.raises(ValueError, match="expected fewer look-alikes than images, got 9 of 9"):
        Plan(train=5, test=4, look_alikes=9)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"copies": (Copies(kind="noise", strength=5, across=6),)}, "at most 5 more copies of"),
        ({"wrong_labels": 6}, "at most 5 more wrong labels, got 6: plan more images"),
        ({"shared_patients": 5}, "at most . shared patients"),
        ({"shortcuts": (Shortcut(kind="size", label=0, train=9),)}, "more train images with the"),
    ],
)
def test_more_faults_than_images_are_refused_and_leave_nothing(
    more: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        plant(tmp_path / "data", Plan(train=5, test=4, size_px=16, **more))
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_never_replaced(tmp_path: Path) -> None:
    plan = Plan(train=4, test=4, size_px=16)
    plant(tmp_path / "data", plan)
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match="data exists"):
        plant(tmp_path / "data", plan)
    with pytest.raises(FileExistsError, match=r"truth\.json exists"):
        plant(tmp_path / "other", plan)
    assert files_of(tmp_path) == before


def test_only_files_of_eight_bits_are_changed() -> None:
    deep = cv2.imencode(".png", noise(8, 8).astype(np.uint16) * 256)[1].tobytes()
    with pytest.raises(ValueError, match="expected JPEG or PNG of 8 bits"):
        changed_file(deep, Change(kind="noise", strength=5))
