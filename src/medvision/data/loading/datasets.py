"""Samples as arrays; order and augmentation depend on (seed, epoch, row) and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medvision.data.loading.sampler import PADDING, Key
from medvision.data.loading.transforms import Transform
from medvision.data.pixel_cache.cache import PixelCache
from medvision.data.samples import Sample, SampleTable
from medvision.data.sources import FileSource, Source
from medvision.types import IGNORE_INDEX, Batch


class SampleDataset(Dataset[dict[str, Any]]):
    """Image, target and row of each sample; keyed by (epoch, row), of which one is ``PADDING``.

    Args:
        samples: Table of the split.
        source: Reads a sample.
        transform: Applied to every image, and to its mask alike.
        seed: With epoch and row, decides every random transform.
        targets: Target of each sample, floats or unsigned integers (N, ...); None: its mask.
        cache: Keeps decoded images of files; None decodes them each time.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        source: Source,
        transform: Transform,
        seed: int,
        targets: NDArray[Any] | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        self.samples = SampleTable.of(samples)
        self.source, self.transform, self.seed = source, transform, seed
        self.targets, self.cache = targets, cache
        if targets is None:
            return
        if len(targets) != len(self.samples):
            raise ValueError(f"expected {len(self.samples)} targets, got {len(targets)}")
        if targets.dtype.kind != "f" and not np.can_cast(np.uint8, targets.dtype):
            raise ValueError(f"expected targets that can be ignored, got {targets.dtype}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        row = key[1]
        if row == PADDING:
            return self._padding()
        sample = self.samples[row]
        if self.cache is not None and isinstance(self.source, FileSource):
            image, mask = self.cache.read(self.source, sample)
        else:
            image, mask = self.source.read(sample)
        image, mask = self.transform(image, mask, seed=_seed_of(self.seed, key))
        target = mask if self.targets is None else self.targets[row]
        return {"image": image, "target": target, "index": row}

    def _padding(self) -> dict[str, Any]:
        """A black image that counts nowhere; only the transforms know the shape it must have."""
        size = (self.transform.size_px, self.transform.size_px)
        black = np.zeros((*size, self.source.channels), np.uint8)
        image, mask = self.transform(black, np.zeros(size, np.uint8), seed=0)
        targets = np.asarray(mask)[None] if self.targets is None else self.targets
        ignored = np.nan if targets.dtype.kind == "f" else IGNORE_INDEX
        target = np.full(targets.shape[1:], ignored, targets.dtype)
        return {"image": np.zeros_like(image), "target": target, "index": PADDING}


def _seed_of(seed: int, key: Key) -> int:
    return int(np.random.SeedSequence((seed, *key)).generate_state(1)[0])


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; images come out as (N, C, H, W) in channels-last memory at no cost."""
    image = torch.from_numpy(np.stack([item["image"] for item in items]))
    return {
        "image": image.permute(0, 3, 1, 2),
        "target": torch.from_numpy(np.stack([item["target"] for item in items])),
        "index": torch.tensor([item["index"] for item in items]),
    }
