import hashlib
import itertools
import pickle
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from medvision.data.samples import Sample, SampleTable, without_suffix
from medvision.data.splits.assign import draw_groups

SAMPLES = [
    Sample(path="b/2.png", target="b", split="val"),
    Sample(path="a/1.png", target="a", group="p", split="train"),
    Sample(path="a/1.jpg", target="a"),
]


def test_a_table_is_equal_to_the_list_it_was_made_of() -> None:
    table, samples = SampleTable.of(iter(SAMPLES)), list(SAMPLES)
    assert table == samples
    assert samples == table
    assert table != SAMPLES[:2]
    assert table[1:] == SAMPLES[1:]
    assert [table[0], table[-1]] == [SAMPLES[0], SAMPLES[-1]]
    assert SampleTable.of(table) is table
    assert SampleTable.joined([table, SAMPLES[:1]]) == [*SAMPLES, SAMPLES[0]]
    assert not SampleTable.of([])


def test_samples_are_selected_by_split_and_sorted_by_path() -> None:
    table = SampleTable.of(SAMPLES)
    assert table.of_split("train") == [SAMPLES[1]]
    assert table.of_split("test") == []
    assert table.by_path() == [SAMPLES[2], SAMPLES[1], SAMPLES[0]]


def test_a_column_is_changed_in_a_copy() -> None:
    table = SampleTable.of(SAMPLES)
    assert table.with_column(groups=["x", "", "y"]) == [
        replace(sample, group=group) for sample, group in zip(SAMPLES, ("x", "", "y"), strict=True)
    ]
    assert table == SAMPLES


def test_a_table_is_sent_to_a_loader_process_in_a_few_bytes_per_row() -> None:
    paths = [f"images/patient_{k:07d}.png" for k in range(20_000)]
    samples = [Sample(path=p, target=p.replace("images", "masks"), split="train") for p in paths]
    packed = pickle.dumps(SampleTable.of(samples))
    assert len(packed) / len(samples) < len(paths[0]) * 2 + 15
    assert pickle.loads(packed) == samples


def test_extensions_are_removed_as_by_pathlib() -> None:
    for length in range(1, 7):
        for letters in itertools.product("ab./ ", repeat=length):
            path = "".join(letters)
            try:
                expected = str(PurePosixPath(path).with_suffix(""))
            except ValueError:  # no file name
                continue
            assert without_suffix(path) == expected


def uniform(seed: int, group: str) -> float:
    """Return u in [0, 1], which determines the split of a group."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def test_numbered_groups_are_drawn_like_single_ones() -> None:
    samples = [
        *(Sample(path=f"{k}.png", target="") for k in range(50)),
        *(Sample(path=f"{k}.jpg", target="") for k in range(0, 50, 3)),  # of the same stem
        *(Sample(path=f"x{k}.png", target="", group=str(k)) for k in range(0, 60, 7)),
    ]
    groups = draw_groups(SampleTable.of(samples), seed=4)
    keys = [sample.group_key for sample in samples]
    assert len(groups) == len(set(keys))
    for row, key in enumerate(keys):
        group = groups.of_sample[row]
        assert groups.first[group] == keys.index(key)
        assert groups.u[group] == uniform(4, key)


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_numbers_are_drawn_from_seed_and_name_alone(seed: int) -> None:
    one, other = (draw_groups(SampleTable.of(part), seed=seed) for part in (SAMPLES[:1], SAMPLES))
    assert one.u[0] == other.u[other.of_sample[0]] == uniform(seed, "b/2")
