"""Samples as arrays; order and augmentation depend on (seed, epoch, row) and nothing else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from medvision.data.image_io import read_image, read_mask
from medvision.data.phantom import draw_polyp_scene
from medvision.data.sample import Sample
from medvision.data.transforms import PairTransform
from medvision.types import Batch

Key = tuple[int, int]
"""Epoch and row of a sample: what a sampler asks a dataset for."""


class PairSource(Protocol):
    """Where images and masks come from."""

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, C) in [0, 255] and class indices (H, W), at the size of the file."""
        ...


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Files under a root folder."""

    root: Path
    channels: int
    num_classes: int
    color_map: Sequence[tuple[int, int, int]] | None
    value_range: tuple[float, float] | None

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image = read_image(
            self.root / sample.path, channels=self.channels, value_range=self.value_range
        )
        mask = read_mask(
            self.root / sample.target, num_classes=self.num_classes, color_map=self.color_map
        )
        return image, mask


@dataclass(frozen=True, kw_only=True)
class PhantomSource:
    """Scenes drawn by code; a sample's path ends in the number of its scene."""

    size_px: int
    seed: int
    channels: int

    def samples(self, count: int) -> list[Sample]:
        """The first ``count`` scenes, as files that were never written would be named."""
        names = [f"phantom_{index:06d}.png" for index in range(count)]
        return [Sample(path=f"images/{name}", target=f"masks/{name}") for name in names]

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        index = int(Path(sample.path).stem.rsplit("_", 1)[1])
        image, mask = draw_polyp_scene(index, size_px=self.size_px, seed=self.seed)
        if self.channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint8, copy=False)
        return image, mask


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Image, target and row of each sample; keyed by (epoch, row).

    Args:
        samples: Table of the split.
        source: Reads a sample.
        transform: Applied to every pair.
        seed: With epoch and row, decides every random transform.
    """

    def __init__(
        self, *, samples: Sequence[Sample], source: PairSource, transform: PairTransform, seed: int
    ) -> None:
        self.samples, self.source, self.transform, self.seed = samples, source, transform, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, row = key
        image, mask = self.source.read(self.samples[row])
        seed = int(np.random.SeedSequence((self.seed, epoch, row)).generate_state(1)[0])
        image, mask = self.transform(image, mask, seed=seed)
        return {"image": image, "target": mask, "index": row}


class EpochSampler(Sampler[Key]):
    """Rows of one epoch, each with the epoch's number.

    Lightning calls ``set_epoch``; worker processes learn the epoch from the keys, so they
    can live on from one epoch to the next.

    Args:
        num_samples: Rows to draw from.
        seed: With the epoch, decides the order.
        shuffle: Draw a new order each epoch, the same number of rows for every process;
            otherwise ascending, every row once over all processes.
        rank: Number of this process.
        num_processes: Processes that share the rows, each taking its own.
    """

    def __init__(
        self, *, num_samples: int, seed: int, shuffle: bool, rank: int = 0, num_processes: int = 1
    ) -> None:
        self.num_samples, self.seed, self.shuffle = num_samples, seed, shuffle
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Use the order of ``epoch`` from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.rank, self._shared_rows, self.num_processes))

    def __iter__(self) -> Iterator[Key]:
        rows = np.arange(self.num_samples)
        if self.shuffle:
            rows = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples)
        mine = rows[self.rank : self._shared_rows : self.num_processes]
        return iter([(self.epoch, int(row)) for row in mine])

    @property
    def _shared_rows(self) -> int:
        """Rows of an epoch: in training a multiple of the processes, which step together."""
        left_over = self.num_samples % self.num_processes if self.shuffle else 0
        return self.num_samples - left_over


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; images come out as (N, C, H, W) in channels-last memory at no cost."""
    image = torch.from_numpy(np.stack([item["image"] for item in items]))
    return {
        "image": image.permute(0, 3, 1, 2),
        "target": torch.from_numpy(np.stack([item["target"] for item in items])),
        "index": torch.tensor([item["index"] for item in items]),
    }


def start_worker(worker_id: int) -> None:  # noqa: ARG001  torch calls it with the number
    """Keep a loader process to one thread: OpenCV would otherwise take every core."""
    cv2.setNumThreads(0)
