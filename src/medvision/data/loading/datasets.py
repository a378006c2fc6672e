"""Samples as arrays; order and augmentation depend on (seed, epoch, row) and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medvision.data.loading.sampler import PADDING, EpochSampler, Key
from medvision.data.loading.transforms import Pair, Transform
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.data.readers.decode import read_bytes
from medvision.data.readers.images import decode_image, decode_mask
from medvision.data.samples import Sample, SampleTable
from medvision.data.validation.validate import compare_sizes
from medvision.types import IGNORE_INDEX, Batch

__all__ = [
    "PADDING",
    "ClassPhantomSource",
    "ClassificationDataset",
    "EpochSampler",
    "FolderSource",
    "ImageFolderSource",
    "ImageSource",
    "Key",
    "PairSource",
    "PhantomSource",
    "SegmentationDataset",
    "collate",
]


class PairSource(Protocol):
    """Where images and masks come from."""

    @property
    def channels(self) -> int:
        """C of its images."""
        ...

    def read(self, sample: Sample) -> Pair:
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

    def read(self, sample: Sample) -> Pair:
        image = self.decode_image(sample, self.image_file(sample))
        return self._with_mask(sample, image, self.mask_file(sample))

    def image_file(self, sample: Sample) -> bytes:
        return read_bytes(self.root / sample.path)

    def mask_file(self, sample: Sample) -> bytes:
        return read_bytes(self.root / sample.target)

    def decode(self, sample: Sample, image: bytes, mask: bytes) -> Pair:
        return self._with_mask(sample, self.decode_image(sample, image), mask)

    def decode_image(self, sample: Sample, data: bytes) -> NDArray[np.uint8]:
        where = str(self.root / sample.path)
        return decode_image(data, where=where, channels=self.channels, value_range=self.value_range)

    def _with_mask(self, sample: Sample, image: NDArray[np.uint8], data: bytes) -> Pair:
        path = self.root / sample.target
        mask = decode_mask(
            data, where=str(path), num_classes=self.num_classes, color_map=self.color_map
        )
        compare_sizes(sample, image.shape[:2], mask.shape, path)  # no header may be read yet
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

    def read(self, sample: Sample) -> Pair:
        index = int(Path(sample.path).stem.rsplit("_", 1)[1])
        image, mask = draw_polyp_scene(index, size_px=self.size_px, seed=self.seed)
        if self.channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint8, copy=False)
        return image, mask


class ImageSource(Protocol):
    """Where images come from."""

    @property
    def channels(self) -> int:
        """C of its images."""
        ...

    def read(self, path: str) -> NDArray[np.uint8]:
        """Image (H, W, C) in [0, 255], at the size of the file."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageFolderSource:
    """Image files under a root folder."""

    root: Path
    channels: int
    value_range: tuple[float, float] | None

    def read(self, path: str) -> NDArray[np.uint8]:
        return self.decode(path, self.image_file(path))

    def image_file(self, path: str) -> bytes:
        return read_bytes(self.root / path)

    def decode(self, path: str, image: bytes) -> NDArray[np.uint8]:
        where = str(self.root / path)
        return decode_image(
            image, where=where, channels=self.channels, value_range=self.value_range
        )


@dataclass(frozen=True, kw_only=True)
class ClassPhantomSource:
    """Grey pictures drawn by code; a path holds the class and ends in the number of the picture."""

    size_px: int
    seed: int
    channels: int
    class_names: Sequence[str]
    draw: Callable[..., NDArray[np.uint8]]

    def read(self, path: str) -> NDArray[np.uint8]:
        folder, name = Path(path).parts
        index, label = int(Path(name).stem.rsplit("_", 1)[1]), self.class_names.index(folder)
        image = self.draw(index, label, size_px=self.size_px, seed=self.seed)[..., None]
        return np.repeat(image, self.channels, axis=2)


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Image, target and row of each sample; keyed by (epoch, row), of which one is ``PADDING``.

    Args:
        samples: Table of the split.
        source: Reads a sample.
        transform: Applied to every pair.
        seed: With epoch and row, decides every random transform.
    """

    def __init__(
        self, *, samples: Sequence[Sample], source: PairSource, transform: Transform, seed: int
    ) -> None:
        self.samples = SampleTable.of(samples)
        self.source, self.transform, self.seed = source, transform, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        if key[1] == PADDING:
            return self._padding()
        image, mask = self.source.read(self.samples[key[1]])
        image, mask = self.transform.pair(image, mask, seed=_seed_of(self.seed, key))
        return {"image": image, "target": mask, "index": key[1]}

    def _padding(self) -> dict[str, Any]:
        black = _black(self.transform, self.source.channels)
        image, mask = self.transform.pair(black, black[..., 0].copy(), seed=0)
        target = np.full_like(mask, IGNORE_INDEX)
        return {"image": np.zeros_like(image), "target": target, "index": PADDING}


class ClassificationDataset(Dataset[dict[str, Any]]):
    """Image, class index and row of each sample; keyed by (epoch, row), as masks are.

    Args:
        samples: Table of the split.
        source: Reads an image.
        class_indices: Index of each class name.
        transform: Applied to every image.
        seed: With epoch and row, decides every random transform.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        source: ImageSource,
        class_indices: Mapping[str, int],
        transform: Transform,
        seed: int,
    ) -> None:
        self.samples = SampleTable.of(samples)
        self.source, self.transform, self.seed = source, transform, seed
        names, number = self.samples.targets.numbered()
        self.targets = np.array([class_indices[name] for name in names], np.uint8)[number]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        if key[1] == PADDING:
            return self._padding()
        image = self.source.read(self.samples[key[1]].path)
        image = self.transform.image(image, seed=_seed_of(self.seed, key))
        return {"image": image, "target": self.targets[key[1]], "index": key[1]}

    def _padding(self) -> dict[str, Any]:
        image = self.transform.image(_black(self.transform, self.source.channels), seed=0)
        target = self.targets.dtype.type(IGNORE_INDEX)
        return {"image": np.zeros_like(image), "target": target, "index": PADDING}


def _black(transform: Transform, channels: int) -> NDArray[np.uint8]:
    """What goes through the transforms for a row of padding: only they know its shape after."""
    return np.zeros((transform.size_px, transform.size_px, channels), dtype=np.uint8)


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
