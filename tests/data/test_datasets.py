from itertools import chain, product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from medvision.data.loading.datasets import (
    SampleDataset,
    collate,
    start_worker,
)
from medvision.data.loading.sampler import PADDING, EpochSampler
from medvision.data.loading.transforms import Transform
from medvision.data.samples import Sample
from medvision.data.sources import PolypPhantoms
from medvision.types import IGNORE_INDEX

AUGMENTED = {"HorizontalFlip": {"p": 0.5}, "Affine": {"rotate": [-30, 30], "p": 0.9}}


def dataset(*, channels: int = 3, seed: int = 0) -> SampleDataset:
    source = PolypPhantoms(size_px=32, seed=0, channels=channels, num_images=6)
    transform = Transform(size_px=32, transforms=AUGMENTED, key="data.train_transforms")
    samples = source.index().samples
    return SampleDataset(samples=samples, source=source, transform=transform, seed=seed)


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


@pytest.mark.parametrize(("target", "outside"), [("m.png", 0), ("m.png|roi:v.png", IGNORE_INDEX)])
def test_a_field_of_view_ends_at_the_border_of_the_image(target: str, outside: int) -> None:
    class Empty(PolypPhantoms):
        def read(self, sample: Sample) -> Any:
            return np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)

    turned = Transform(size_px=16, transforms={"Affine": {"rotate": [45, 45], "p": 1}}, key="k")
    data = SampleDataset(
        samples=[Sample(path="a.png", target=target)],
        source=Empty(size_px=16, seed=0, channels=3, num_images=1),
        transform=turned,
        seed=0,
    )
    mask = data[0, 0]["target"]
    assert (mask[0, 0], mask[-1, 0]) == (outside, outside), mask
    assert mask[8, 8] == 0


@pytest.mark.parametrize("epoch", [0, 3])
def test_loader_processes_do_not_change_the_batches(epoch: int) -> None:
    alone, shared = batches(0, epoch), batches(2, epoch)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_each_epoch_has_every_row_once_in_its_own_order() -> None:
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
def test_processes_train_on_equally_many_disjoint_rows(num_samples: int) -> None:
    seen = [
        [row for _, row in sampler] for sampler in samplers(num_samples, 2, shuffle=True, pad_to=4)
    ]
    assert len(seen[0]) == len(seen[1]) == num_samples // 2
    assert not set(seen[0]) & set(seen[1])
    assert PADDING not in seen[0] + seen[1]


def samplers(num_samples: int, num_processes: int, **options: Any) -> list[EpochSampler]:
    common = {"num_samples": num_samples, "seed": 0, "num_processes": num_processes}
    made = [EpochSampler(rank=rank, **common, **options) for rank in range(num_processes)]
    for sampler in made:
        sampler.set_epoch(5)
    return made


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_evaluation_distributes_every_row_once_with_minimal_padding(
    num_processes: int,
) -> None:
    for num_samples, pad_to in product(range(26), range(1, 7)):
        sharing = samplers(num_samples, num_processes, shuffle=False, pad_to=pad_to)
        keys = [list(sampler) for sampler in sharing]
        (length,) = {len(own) for own in keys}
        assert [len(sampler) for sampler in sharing] == [length] * num_processes
        assert length % pad_to == 0
        assert (length - pad_to) * num_processes < num_samples <= length * num_processes
        dealt = list(chain.from_iterable(zip(*keys, strict=True)))
        rows = list(range(num_samples))
        padding = [PADDING] * (length * num_processes - num_samples)
        assert dealt == [(5, row) for row in rows + padding]


def test_two_processes_see_in_a_step_what_one_sees_with_twice_the_batch() -> None:
    (alone,) = samplers(19, 1, shuffle=True)
    keys, parts = list(alone), [list(sampler) for sampler in samplers(19, 2, shuffle=True)]
    for step in range(2):
        together = [key for part in parts for key in part[4 * step : 4 * step + 4]]
        assert sorted(together) == sorted(keys[8 * step : 8 * step + 8])


class Unread:
    """Source whose files must not be read."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def read_for(self, what: Any, size_px: int) -> Any:
        raise AssertionError(f"{what} was read at {size_px} pixels")


class Grey:
    """Source of constant grey images."""

    def __init__(self, channels: int, *, pair: bool) -> None:
        self.channels, self.pair = channels, pair

    def read(self, what: Any) -> Any:
        image: NDArray[np.uint8] = np.full((20, 30, self.channels), 128, np.uint8)
        return image, np.ones((20, 30), np.uint8) if self.pair else None

    def read_for(self, what: Any, size_px: int) -> Any:
        return self.read(what)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pair", [True, False], ids=["masks", "classes"])
@pytest.mark.parametrize(
    "transforms", [{}, {"CenterCrop": {"height": 24, "width": 28}}], ids=["plain", "cropped"]
)
def test_padding_is_a_black_ignored_sample_that_reads_no_file(
    channels: int, pair: bool, transforms: dict[str, Any]
) -> None:
    transform = Transform(size_px=32, transforms=transforms, key="data.eval_transforms")
    samples = [Sample(path="a/0.png", target="a"), Sample(path="b/1.png", target="b")]

    def made(source: Any) -> Any:
        options = {"samples": samples, "source": source, "transform": transform, "seed": 0}
        return SampleDataset(**options, targets=None if pair else np.array([0, 1], np.uint8))

    real = made(Grey(channels, pair=pair))[0, 1]
    padding = made(Unread(channels))[7, PADDING]
    assert real.keys() == padding.keys()
    for key in ("image", "target"):
        assert real[key].shape == padding[key].shape
        assert real[key].dtype == padding[key].dtype == np.uint8
    assert not padding["image"].any()
    assert np.all(padding["target"] == IGNORE_INDEX)
    assert collate([real, padding])["index"].tolist() == [1, -1]


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
