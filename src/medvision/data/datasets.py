"""Samples as arrays; order and augmentation depend on (seed, epoch, row) and nothing else."""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from medvision.data.transforms import Transform
from medvision.types import IGNORE_INDEX, Batch

PADDING = -1
"""Row of a sample that only fills up a batch: black, all of it to be ignored, from no file."""

Key = tuple[int, ...]
"""Epoch and row of a sample: what a sampler asks a dataset for. A row drawn again in the same
epoch has the number of its repeat behind, and so another augmentation."""


class PairSource(Protocol):
    """Where images and masks come from."""

    @property
    def channels(self) -> int:
        """C of its images."""
        ...

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
        return read_image(self.root / path, channels=self.channels, value_range=self.value_range)


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
        self.samples, self.source, self.transform, self.seed = samples, source, transform, seed

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
        self.samples, self.source, self.transform, self.seed = samples, source, transform, seed
        self.targets = np.array([class_indices[s.target] for s in samples], dtype=np.uint8)

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


class EpochSampler(Sampler[Key]):
    """Rows of one epoch, each with the epoch's number.

    Lightning calls ``set_epoch``; worker processes learn the epoch from the keys, so they
    can live on from one epoch to the next.

    Args:
        num_samples: Rows to draw from.
        seed: With the epoch, decides the order.
        shuffle: Draw a new order each epoch, the same number of rows for every process;
            otherwise ascending, every row once over all processes, and as many keys for each:
            what is missing at the end is filled up with the row ``PADDING``.
        rank: Number of this process.
        num_processes: Processes that share the rows, each taking its own.
        strata: Class of each row; given with ``shuffle``, as many rows are drawn as there are,
            from every class alike: the rows of a rare class several times.
        pad_to: Without ``shuffle``, the keys of each process are a multiple of this.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        num_processes: int = 1,
        strata: NDArray[np.integer] | None = None,
        pad_to: int = 1,
    ) -> None:
        self.num_samples, self.seed, self.shuffle = num_samples, seed, shuffle
        self.strata, self.pad_to = strata, pad_to
        self.rank, self.num_processes = rank, num_processes
        self.epoch, self._skipped = 0, 0

    def skip(self, num_keys: int) -> None:
        """Leave out the first keys of this process in the next iteration, and in no other.

        For a run that goes on in the middle of an epoch: what it has learned from is behind it.
        """
        self._skipped = num_keys

    def set_epoch(self, epoch: int) -> None:
        """Use the order of ``epoch`` from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:  # processes step together: as many rows for each, the rest in no epoch
            return self.num_samples // self.num_processes
        together = self.num_processes * self.pad_to
        return math.ceil(self.num_samples / together) * self.pad_to

    def __iter__(self) -> Iterator[Key]:
        keys: list[Key] = [(self.epoch, row) for row in range(self.num_samples)]
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            if self.strata is not None:
                keys = [(self.epoch, *drawn) for drawn in _draw_evenly(self.strata, rng)]
            keys = [keys[place] for place in rng.permutation(len(keys))]
        shared = len(self) * self.num_processes
        keys += [(self.epoch, PADDING)] * (shared - len(keys))
        skipped, self._skipped = self._skipped, 0
        return iter(keys[self.rank : shared : self.num_processes][skipped:])


def _draw_evenly(strata: NDArray[np.integer], rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Draw as many rows as there are, every class the same number (or one more).

    A class with more rows than its share gives a part of them, without repeats; one with fewer
    gives each of them equally often, up to one time. A repeat comes as (row, number of it).
    """
    classes = rng.permutation(np.unique(strata))
    shares = [len(part) for part in np.array_split(np.arange(len(strata)), len(classes))]
    drawn: list[tuple[int, ...]] = []
    for name, share in zip(classes, shares, strict=True):
        own = rng.permutation(np.flatnonzero(strata == name)).tolist()
        rounds = (divmod(place, len(own)) for place in range(share))
        drawn += [(own[place], turn) if turn else (own[place],) for turn, place in rounds]
    return drawn


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; images come out as (N, C, H, W) in channels-last memory at no cost."""
    image = torch.from_numpy(np.stack([item["image"] for item in items]))
    return {
        "image": image.permute(0, 3, 1, 2),
        "target": torch.from_numpy(np.stack([item["target"] for item in items])),
        "index": torch.tensor([item["index"] for item in items]),
    }


def start_worker(worker_id: int) -> None:  # noqa: ARG001  torch calls it with the number
    """Prepare a loader process: one thread, and alive until the training ends it.

    OpenCV would otherwise take every core. A cluster sends SIGTERM to every process of a job; the
    training then finishes its step, for which it needs its loaders.
    """
    cv2.setNumThreads(0)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """Heed SIGTERM where the process that started this one sends it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
