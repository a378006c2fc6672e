import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medvision.data.datasets import (
    EpochSampler,
    PhantomSource,
    SegmentationDataset,
    collate,
    start_worker,
)
from medvision.data.transforms import Transform

AUGMENTED = {"HorizontalFlip": {"p": 0.5}, "Affine": {"rotate": [-30, 30], "p": 0.9}}


def dataset(*, channels: int = 3, seed: int = 0) -> SegmentationDataset:
    source = PhantomSource(size_px=32, seed=0, channels=channels)
    transform = Transform(size_px=32, transforms=AUGMENTED, key="data.train_transforms")
    return SegmentationDataset(
        samples=source.samples(6), source=source, transform=transform, seed=seed
    )


def batches(num_workers: int, epoch: int) -> list[torch.Tensor]:
    sampler = EpochSampler(num_samples=6, seed=0, shuffle=True)
    sampler.set_epoch(epoch)
    loader = DataLoader(
        dataset(),
        batch_size=2,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
    )
    return [batch["image"].clone() for batch in loader]


def test_a_sample_depends_on_seed_epoch_and_row_only() -> None:
    first, other_seed = dataset(), dataset(seed=1)
    item = first[3, 2]["image"]
    first[0, 0], first[9, 5]
    assert np.array_equal(item, first[3, 2]["image"])
    assert not np.array_equal(item, first[4, 2]["image"])
    assert not np.array_equal(item, other_seed[3, 2]["image"])


@pytest.mark.parametrize("epoch", [0, 3])
def test_loader_processes_change_nothing(epoch: int) -> None:
    alone, shared = batches(0, epoch), batches(2, epoch)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_each_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    sampler = EpochSampler(num_samples=20, seed=3, shuffle=True)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {epoch for epoch, _ in keys} == {epoch}
        orders.append([row for _, row in keys])
        assert sorted(orders[-1]) == list(range(20))
    assert orders[0] != orders[1] != orders[2]


def test_without_shuffling_rows_ascend() -> None:
    sampler = EpochSampler(num_samples=4, seed=3, shuffle=False)
    assert list(sampler) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert len(sampler) == 4


@pytest.mark.parametrize("num_samples", [7, 8, 9])
def test_processes_share_the_rows_and_evaluation_misses_none(num_samples: int) -> None:
    for shuffle in (True, False):
        samplers = [
            EpochSampler(
                num_samples=num_samples, seed=0, shuffle=shuffle, rank=rank, num_processes=2
            )
            for rank in range(2)
        ]
        seen = [[row for _, row in sampler] for sampler in samplers]
        assert [len(rows) for rows in seen] == [len(sampler) for sampler in samplers]
        assert not set(seen[0]) & set(seen[1])
        if shuffle:
            assert len(seen[0]) == len(seen[1]) == num_samples // 2
        else:
            assert sorted(seen[0] + seen[1]) == list(range(num_samples))


def test_batches_are_uint8_and_channels_last() -> None:
    data = dataset()
    batch = collate([data[0, row] for row in range(4)])
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["target"].shape == (4, 32, 32)
    assert batch["target"].dtype == torch.uint8
    assert batch["index"].tolist() == [0, 1, 2, 3]


def test_grey_phantoms_have_one_channel() -> None:
    assert dataset(channels=1)[0, 0]["image"].shape == (32, 32, 1)
