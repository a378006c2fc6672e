from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.data import SegmentationData, datamodule
from medvision.data.discovery.description import inspect_folder
from medvision.data.discovery.keys import parse_keys
from medvision.data.duplicates.search import NearDuplicates
from medvision.data.samples import Sample, SampleTable
from medvision.data.splits.sequences import find_sequences, group_by_sequence
from medvision.errors import MedvisionError
from medvision.run.config.store import keys_of

LENGTHS = (6, 14, 9, 20, 5, 16)


def scene(rng: np.random.Generator, size_px: int) -> NDArray[np.float64]:
    planes = [
        cv2.GaussianBlur(rng.normal(0, 1, (size_px, size_px)), (0, 0), s) * s for s in (4, 14)
    ]
    return np.asarray(cv2.normalize(planes[0] + planes[1], None, 20, 235, cv2.NORM_MINMAX))  # type: ignore[call-overload]


def video(rng: np.random.Generator, number: int, *, speed: float = 4) -> list[NDArray[np.uint8]]:
    """Draw frames of a camera that moves smoothly over a scene, with changing light and noise."""
    wide, place, pace = scene(rng, 180), np.array([60.0, 60.0]), rng.normal(0, speed, 2)
    frames = []
    for _ in range(number):
        pace = 0.8 * pace + 0.6 * rng.normal(0, speed, 2)
        place = (place + pace).clip(0, 120)
        y, x = place.astype(int)
        cut = wide[y : y + 60, x : x + 60] * rng.uniform(0.85, 1.1) + rng.normal(0, 4, (60, 60))
        small = cv2.resize(cut.clip(0, 255), (48, 48), interpolation=cv2.INTER_AREA)
        frames.append(small.astype(np.uint8))
    return frames


def videos(*, seed: int, speed: float = 4) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    frames = [frame for number in LENGTHS for frame in video(rng, number, speed=speed)]
    return np.array(frames), np.repeat(np.arange(len(LENGTHS)), LENGTHS)


def unrelated(number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    return np.array([video(rng, 1)[0] for _ in range(number)])


def listed(number: int, *, folder: str = "images", group: str = "") -> SampleTable:
    return SampleTable.of(
        Sample(path=f"{folder}/f{k}.png", target="", group=group) for k in range(number)
    )


def grouped(samples: SampleTable, frames: NDArray[np.uint8]) -> tuple[list[str], list[str]]:
    hashes = np.array([str(k) for k in range(len(frames))])
    found, notes = group_by_sequence(samples, frames, hashes, where="set")
    return list(found.groups), notes


@pytest.mark.parametrize(("seed", "speed"), [(0, 2), (1, 4), (3, 4)])
def test_no_video_is_cut_and_most_ends_are_found(seed: int, speed: float) -> None:
    frames, true = videos(seed=seed, speed=speed)
    number = find_sequences(frames, listed(len(frames)).paths)
    ends, found = np.flatnonzero(np.diff(true)), np.flatnonzero(np.diff(number))
    assert set(found) <= set(ends)
    assert len(found) >= 3


def test_names_are_sorted_by_their_numbers_and_the_groups_follow_the_images() -> None:
    frames, _ = videos(seed=0)
    samples = listed(len(frames))
    groups, notes = grouped(samples, frames)
    order = np.random.default_rng(0).permutation(len(frames))
    again, _ = grouped(samples.select(order), frames[order])
    assert again == [groups[row] for row in order]
    sizes = [groups.count(name) for name in dict.fromkeys(groups)]
    assert notes == [
        f"data.group_by=sequence: {len(sizes)} sequences of {min(sizes)} to {max(sizes)} images"
        " found from the pictures, in the order of the files"
    ]


def test_a_frame_of_something_else_does_not_end_a_video() -> None:
    frames, true = videos(seed=0)
    row = int(np.flatnonzero(true == 3)[9])
    frames[row] = unrelated(1)[0]
    number = find_sequences(frames, listed(len(frames)).paths)
    assert number[row - 1] == number[row] == number[row + 1]


@pytest.mark.parametrize("shuffled", [False, True])
def test_independent_and_shuffled_pictures_are_no_sequences(shuffled: bool) -> None:
    frames = unrelated(60)
    if shuffled:
        frames, _ = videos(seed=0)
        frames = frames[np.random.default_rng(0).permutation(len(frames))]
    with pytest.raises(MedvisionError) as caught:
        grouped(listed(len(frames)), frames)
    assert "no sequences found: the most similar image is a neighbour in the list for" in str(
        caught.value
    )
    with pytest.raises(MedvisionError, match="39 images are too few"):
        grouped(listed(39), frames[:39])


def test_known_groups_and_folders_are_kept() -> None:
    frames = np.array(video(np.random.default_rng(0), 60, speed=2))
    one, two = listed(30), listed(30, folder="more")
    groups, _ = grouped(SampleTable.joined([one, two]), frames)
    assert len(set(groups[:30]) & set(groups[30:])) == 0
    named = SampleTable.joined([listed(30, group="p"), two])
    groups, _ = grouped(named, frames)
    assert set(groups[:30]) == {"p"}
    assert "p" not in groups[30:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos as images with masks."""
    root = tmp_path_factory.mktemp("videos")
    frames, _ = videos(seed=0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    mask = np.zeros((48, 48), np.uint8)
    for k, frame in enumerate(frames):
        cv2.imwrite(str(root / f"images/f{k}.png"), frame)
        mask[5 : 8 + k % 30, 9:30] = 255
        cv2.imwrite(str(root / f"masks/f{k}.png"), mask)
    return root


@pytest.mark.parametrize("protocol", ["official", "grouped", "kfold"])
def test_whole_sequences_stay_in_one_split(
    folder: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = NearDuplicates(
        groups=np.arange(sum(LENGTHS)),
        **dict.fromkeys(("first", "second", "similarity", "relation"), np.empty(0)),
    )
    monkeypatch.setattr(datamodule, "near_duplicates_of", lambda _: alone)
    shipped = keys_of("data", "folder_segmentation")
    shipped.pop("_target_")
    data = SegmentationData(
        **{**shipped, "seed": 0, "root": str(folder), "image_size": 32, "num_workers": 0}
        | {"group_by": "sequence", "protocol": protocol, "folds": 3, "decoded_gb": 0}
    )
    data.prepare()
    number = find_sequences(videos(seed=0)[0], listed(sum(LENGTHS)).paths)
    of_path = {f"images/f{k}.png": int(n) for k, n in enumerate(number)}
    splits: dict[int, set[str]] = {}
    for sample in data.samples:
        splits.setdefault(of_path[sample.path], set()).add(sample.split)
    assert len(splits) >= 4
    assert all(len(of_sequence) == 1 for of_sequence in splits.values())
    assert set().union(*splits.values()) == {"train", "val", "test"}
    assert any("sequences of" in note for note in data.notes)


def test_inspect_counts_the_sequences(folder: Path) -> None:
    keys = parse_keys(["data.group_by=sequence"])
    lines = list(inspect_folder(folder, keys, typed=["data.group_by=sequence"]))
    (groups,) = [line for line in lines if line.startswith("  groups")]
    assert groups.endswith("groups of 70 images; each stays in one split")
    assert any("found from the pictures" in line for line in lines)
    assert lines[-1].endswith("data.group_by=sequence")


def test_only_sequences_can_be_found() -> None:
    with pytest.raises(MedvisionError, match="expected sequence, got video"):
        parse_keys(["data.group_by=video"])
