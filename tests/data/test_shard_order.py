from typing import Any

import numpy as np
import pytest

from medvision.data.loading.sampler import PADDING, EpochSampler, ShardSampler

SHARDS = np.array([0, 1, 2, 3] * 6)


def rows(sampler: EpochSampler, epoch: int = 0) -> list[int]:
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert {key[0] for key in keys} <= {epoch}
    return [key[1] for key in keys]


def sampler(window: int, *, shuffle: bool = True, **options: Any) -> ShardSampler:
    common = {"num_samples": len(SHARDS), "seed": 3, "shuffle": shuffle, "shards": SHARDS}
    return ShardSampler(window=window, **{**common, **options})


def test_the_order_is_that_of_plain_files_sorted_by_windows_of_permuted_shards() -> None:
    for epoch in range(3):
        plain = EpochSampler(num_samples=24, seed=3, shuffle=True)
        permuted = np.random.default_rng((3, epoch, 1)).permutation([0, 1, 2, 3]).tolist()
        expected = [
            row
            for window in (permuted[:2], permuted[2:])
            for row in rows(plain, epoch)
            if SHARDS[row] in window
        ]
        assert rows(sampler(2), epoch) == expected


def test_the_order_of_a_seed_is_unchanged() -> None:
    assert rows(sampler(2), 0)[:8] == [12, 0, 22, 8, 18, 6, 10, 2]
    assert rows(sampler(2), 1)[:8] == [10, 2, 20, 14, 6, 16, 12, 4]
    assert rows(sampler(1), 0)[:6] == [22, 18, 6, 10, 2, 14]


def test_a_window_of_all_shards_is_the_order_of_plain_files() -> None:
    plain = EpochSampler(num_samples=24, seed=3, shuffle=True)
    for epoch in range(3):
        assert rows(sampler(4), epoch) == rows(sampler(9), epoch) == rows(plain, epoch)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_each_row_comes_once_and_few_shards_are_open_at_a_time(window: int) -> None:
    for epoch in range(4):
        found = rows(sampler(window), epoch)
        assert sorted(found) == list(range(24))
        groups = [set(SHARDS[found[i : i + 6 * window]]) for i in range(0, 24, 6 * window)]
        assert all(len(group) <= window for group in groups)
    orders = {tuple(rows(sampler(window), epoch)) for epoch in range(4)}
    assert len(orders) == 4


@pytest.mark.parametrize("num_processes", [2, 3, 5])
def test_processes_alternate_in_one_order(num_processes: int) -> None:
    whole = rows(sampler(2), 1)
    parts = [
        rows(sampler(2, rank=rank, num_processes=num_processes), 1) for rank in range(num_processes)
    ]
    each = 24 // num_processes
    assert [len(part) for part in parts] == [each] * num_processes
    for rank, part in enumerate(parts):
        assert part == whole[rank : each * num_processes : num_processes]


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_held_out_rows_are_read_once_shard_by_shard_over_all_processes(num_processes: int) -> None:
    made = [
        sampler(2, shuffle=False, rank=rank, num_processes=num_processes, pad_to=3)
        for rank in range(num_processes)
    ]
    parts = [rows(one) for one in made]
    assert {len(part) for part in parts} == {len(made[0])}
    assert len(made[0]) % 3 == 0
    merged = [row for turn in zip(*parts, strict=True) for row in turn]
    expected = sorted(range(24), key=lambda row: (SHARDS[row], row))
    assert merged == expected + [PADDING] * (len(merged) - 24)


def test_keys_are_skipped_only_in_their_epoch() -> None:
    one = sampler(2, rank=1, num_processes=2)
    whole, next_one = rows(one, 5), rows(one, 6)
    one.skip(4, epoch=5)
    assert rows(one, 5) == rows(one, 5) == whole[4:]
    assert rows(one, 6) == next_one


def test_classes_are_drawn_evenly_in_windows_too() -> None:
    balance_by = np.array([0] * 20 + [1] * 4)
    one = sampler(2, balance_by=balance_by)
    plain = EpochSampler(num_samples=24, seed=3, shuffle=True, balance_by=balance_by)
    assert sorted(one) == sorted(plain)
    assert list(one) != list(plain)


def test_a_shard_without_rows_of_the_split_does_not_count_in_a_window() -> None:
    held = np.array([1, 5, 7, 9] * 3)
    one = ShardSampler(num_samples=12, seed=0, shuffle=True, shards=held, window=2)
    found = rows(one)
    assert len(set(held[found[:6]])) == len(set(held[found[6:]])) == 2


def test_no_rows_give_no_keys() -> None:
    empty = np.array([], np.int32)
    for shuffle in (True, False):
        one = ShardSampler(num_samples=0, seed=0, shuffle=shuffle, shards=empty, window=2)
        assert list(one) == []
