"""Images of classes, split by a protocol and checked, as Lightning loads them."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.data.datamodule import ImageData
from medvision.data.discovery.class_folders import order_classes
from medvision.data.discovery.index import ClassIndex, index_classification
from medvision.data.loading.datasets import (
    ClassificationDataset,
    ClassPhantomSource,
    ImageFolderSource,
    ImageSource,
)
from medvision.data.phantoms import brain as phantom_brain
from medvision.data.phantoms import chest as phantom_chest
from medvision.data.phantoms.brushes import phantom_label
from medvision.data.pixel_cache.cache import CachedImages
from medvision.data.samples import Sample, SampleTable
from medvision.data.shards.manifest import reading_of
from medvision.data.shards.reader import ShardImageSource
from medvision.data.validation.validate import CheckResult, OnError, check_images
from medvision.errors import MedvisionError, did_you_mean
from medvision.types import STAGES, Stage

PHANTOMS: dict[str, dict[str, Any]] = {
    "chest": {
        "draw": phantom_chest.draw_chest,
        "class_names": phantom_chest.CHEST_CLASSES,
        "version": phantom_chest.PHANTOM_CHEST_VERSION,
    },
    "brain": {
        "draw": phantom_brain.draw_brain,
        "class_names": phantom_brain.BRAIN_CLASSES,
        "version": phantom_brain.PHANTOM_BRAIN_VERSION,
    },
}
"""Embedded sets: what draws a picture, the classes it can draw, and its version."""


class ClassificationData(ImageData):
    """Class folders, or an embedded phantom set, in three splits.

    Batches hold uint8 images (N, C, size, size) and uint8 class indices (N,).

    Args:
        class_names: Order of the classes; None sorts the names of their folders. Of two
            classes the second is the positive one.
        num_classes: Their number, or None: as many as there are.
        phantom: ``chest`` or ``brain``: the set that is drawn without ``root``.
        usual_group_pattern: As ``group_pattern``, for sets that keep the names of the published
            one: not used where ``group_pattern`` is given, or where no file is named so.
        sampler: ``shuffle`` draws every training image once an epoch; ``balanced`` as many
            images, of every class alike.
        **common: As for `ImageData`.
    """

    task = "classification"
    source: ImageSource

    def __init__(
        self,
        *,
        class_names: Sequence[str] | None,
        num_classes: int | None,
        phantom: Literal["chest", "brain"],
        usual_group_pattern: str | None,
        sampler: Literal["shuffle", "balanced"],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.class_names = [] if class_names is None else [str(name) for name in class_names]
        self.num_classes, self.phantom = num_classes, phantom
        self.usual_group_pattern, self.sampler = usual_group_pattern, sampler

    def prepare(self) -> None:
        super().prepare()
        found = len(self.class_names)
        if self.num_classes not in (None, found):
            raise MedvisionError(
                f"{self.num_classes} classes are asked for, the data has {found}:"
                f" {', '.join(self.class_names)}",
                where="data.num_classes",
                hint="leave it out, or mend the folders",
            )
        self.num_classes = found
        train = self.class_counts()["train"]
        absent = [name for name, count in train.items() if not count]
        if absent:
            raise MedvisionError(
                f"no training image of {', '.join(absent)}",
                where="data.root",
                hint="add images, or lower data.val_fraction and data.test_fraction",
            )

    def dataset(self, stage: Stage) -> ClassificationDataset:
        source = self.source
        if self.pixels is not None and isinstance(source, ImageFolderSource | ShardImageSource):
            source = CachedImages(source=source, cache=self.pixels)
        return ClassificationDataset(
            samples=self.tables[stage],
            source=source,
            class_indices={name: index for index, name in enumerate(self.class_names)},
            transform=self.transforms[stage],
            seed=self.seed,
        )

    def class_counts(self) -> dict[Stage, dict[str, int]]:
        """Images of each class in each split, classes in the order of their indices."""
        counts = {s: Counter(self.tables[s].targets) for s in STAGES}
        return {s: {name: counts[s][name] for name in self.class_names} for s in STAGES}

    def read_file(self, path: str) -> NDArray[np.uint8]:
        """Image (H, W, C) of a sample at the size of its file."""
        return self.source.read(path)

    def _strata(self) -> NDArray[np.integer] | None:
        return self.dataset("train").targets if self.sampler == "balanced" else None

    def _find(self) -> tuple[SampleTable, Sequence[str] | None]:
        if self.root is None:
            samples = self._draw_phantoms()
        else:
            index = self._index(self.root, self.group_pattern, class_names=self.class_names or None)
            samples = self._checked(index.samples, index.notes)
            self.class_names = list(index.class_names)
        return samples, samples.targets

    def _draw_phantoms(self) -> SampleTable:
        kind = PHANTOMS[self.phantom]
        names, version = kind["class_names"], kind["version"]
        if self.class_names and sorted(self.class_names) != sorted(names):
            raise MedvisionError(
                f"the phantoms are of {', '.join(names)}, not of {', '.join(self.class_names)}",
                where="data.class_names",
                hint="give data.root",
            )
        self.class_names = self.class_names or list(names)
        self.source = ClassPhantomSource(
            size_px=self.image_size,
            seed=self.split_seed,
            channels=self.in_channels,
            class_names=names,
            draw=kind["draw"],
        )
        identity = (
            f"{self.phantom} phantom {version} {self.split_seed} {self.image_size}"
            f" {self.num_images}"
        )
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        labels = [phantom_label(i, len(names), self.split_seed) for i in range(self.num_images)]
        samples = [
            Sample(path=f"{names[label]}/phantom_{index:06d}.png", target=names[label])
            for index, label in enumerate(labels)
        ]
        return SampleTable.of(_deal(samples, self.val_fraction, self.test_fraction))

    def gather(self) -> SampleTable:
        root, known = self.given_root(), list(self.class_names)
        index = self._index(root, self.group_pattern, class_names=None)
        unknown = [name for name in index.class_names if name not in known]
        if known and unknown:
            raise MedvisionError(
                f"the class {unknown[0]} is none of {', '.join(known)}",
                where=str(root),
                hint=did_you_mean(unknown[0], known, otherwise="rename the folder, or remove it"),
            )
        absent = [name for name in known if name not in index.class_names]
        if absent:
            self.notes.append(f"{root} holds no image of {', '.join(absent)}")
        samples = self._checked(index.samples, index.notes)
        self.class_names = known or list(index.class_names)
        return samples

    def _open(self) -> None:
        if self.root is None:
            self._draw_phantoms()
        elif self.shards is not None:
            self.source = ShardImageSource(files=self.shards.files, **self.reading)
        else:
            self.source = ImageFolderSource(root=Path(self.root), **self.reading)

    @property
    def reading(self) -> dict[str, Any]:
        """How files are read."""
        return {"channels": self.in_channels, "value_range": self.value_range}

    def _check(self, samples: Sequence[Sample], *, on_error: OnError) -> CheckResult:
        limits = self.value_range
        if self.shards is not None:
            return self.shards.check(samples, reading_of(value_range=limits))
        root = Path(self.given_root())
        return check_images(root, samples, on_error=on_error, value_range=limits)

    def _list(
        self, root: Path | str, pattern: str | None, class_names: Sequence[str] | None
    ) -> ClassIndex:
        splits = None if self.splits is None else Path(self.splits)
        if self.shards is None:
            return index_classification(
                Path(root), splits=splits, group_pattern=pattern, class_names=class_names
            )
        index = self.shards.index(splits=splits, group_pattern=pattern)
        names = order_classes(Path(root), index.samples, class_names)
        return ClassIndex(samples=index.samples, class_names=names, notes=index.notes)

    def _index(
        self, root: Path | str, pattern: str | None, *, class_names: Sequence[str] | None
    ) -> ClassIndex:
        index = self._list(root, pattern, class_names)
        usual = self.usual_group_pattern
        if pattern is not None or usual is None or any(index.samples.groups.numbered()[0]):
            return index
        if any(re.search(usual, path) for path in index.samples.paths):
            return self._index(root, usual, class_names=class_names)
        note = (
            f"no file is named as in the published {self.name} set, so patients are unknown;"
            " data.group_pattern names them"
        )
        return replace(index, notes=[*index.notes, note])


def _deal(samples: list[Sample], val_fraction: float, test_fraction: float) -> list[Sample]:
    """Split phantoms class by class, so that even a handful of them has every class in each."""
    sizes, seen = Counter(sample.target for sample in samples), Counter[str]()
    dealt = []
    for sample in samples:
        size, place = sizes[sample.target], seen[sample.target]
        seen[sample.target] += 1
        test = max(1, round(test_fraction * size)) if test_fraction else 0
        val = max(1, round(val_fraction * size)) if val_fraction else 0
        split = "test" if place < test else "val" if place < test + val else "train"
        dealt.append(replace(sample, split=split))
    return dealt
