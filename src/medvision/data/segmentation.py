"""Images with masks, split and checked, as Lightning loads them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvision.data.datamodule import ImageData
from medvision.data.discovery.index import index_segmentation
from medvision.data.loading.datasets import (
    FolderSource,
    PairSource,
    PhantomSource,
    SegmentationDataset,
)
from medvision.data.loading.transforms import Pair
from medvision.data.phantoms.polyps import PHANTOM_VERSION
from medvision.data.pixel_cache.cache import CachedPairs
from medvision.data.samples import Sample, SampleTable
from medvision.data.shards.manifest import reading_of
from medvision.data.shards.reader import ShardPairSource
from medvision.data.splits.assign import foreground_strata
from medvision.data.validation.validate import CheckResult, OnError, check_segmentation
from medvision.errors import MedvisionError
from medvision.types import Stage


class SegmentationData(ImageData):
    """Images and masks of a folder, or the embedded phantom set, in three splits.

    Batches hold uint8 images (N, C, size, size) and uint8 class indices (N, size, size).

    Args:
        class_names: Name of each class, the background first.
        num_classes: Their number; stated because model and loss read it too.
        color_map: One RGB triple per class, for masks that hold colours.
        mask_suffix: What the name of a mask adds to the name of its image.
        **common: As for `ImageData`.
    """

    task = "segmentation"
    source: PairSource

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        num_classes: int,
        color_map: Sequence[tuple[int, int, int]] | None,
        mask_suffix: str,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if len(class_names) != num_classes:
            raise MedvisionError(
                f"{len(class_names)} class names for {num_classes} classes",
                where="data.num_classes",
                hint="name every class, the background first, in data.class_names",
            )
        if not self.transforms["test"].keeps_pixels_in_place():
            raise MedvisionError(
                "a transform of validation and test images moves pixels",
                where="data.eval_transforms",
                hint="masks would not fit their files: keep it in data.train_transforms",
            )
        self.class_names = list(class_names)
        self.color_map = None if color_map is None else [tuple(color) for color in color_map]
        self.mask_suffix = mask_suffix

    def dataset(self, stage: Stage) -> SegmentationDataset:
        source = self.source
        if self.pixels is not None and isinstance(source, FolderSource | ShardPairSource):
            source = CachedPairs(source=source, cache=self.pixels)
        return SegmentationDataset(
            samples=self.tables[stage],
            source=source,
            transform=self.transforms[stage],
            seed=self.seed,
        )

    def read_at_network_size(self, path: str, target: str) -> Pair:
        """Image and mask of a file as validation and test see them."""
        image, mask = self.source.read(Sample(path=path, target=target))
        return self.transforms["test"].pair(image, mask, seed=0)

    def gather(self) -> SampleTable:
        return self._read_root(self.given_root())

    def _open(self) -> None:
        if self.root is None:
            self._draw_phantoms()
        elif self.shards is not None:
            self.source = ShardPairSource(files=self.shards.files, **self.reading)
        else:
            self.source = FolderSource(root=Path(self.root), **self.reading)

    @property
    def reading(self) -> dict[str, Any]:
        """How files are read."""
        return {
            "num_classes": len(self.class_names),
            "channels": self.in_channels,
            "color_map": self.color_map,
            "value_range": self.value_range,
        }

    def _find(self) -> tuple[SampleTable, list[str] | None]:
        if self.root is None:
            return self._draw_phantoms(), None
        samples = self._read_root(self.root)
        if self.facts is None or self.facts.mask is None:
            return samples, None
        return samples, foreground_strata(self.facts.mask.foreground.tolist())

    def _draw_phantoms(self) -> SampleTable:
        source = PhantomSource(
            size_px=self.image_size, seed=self.split_seed, channels=self.in_channels
        )
        if len(self.class_names) != 2:
            raise MedvisionError(
                f"the phantoms have 2 classes, not {len(self.class_names)}",
                where="data.class_names",
                hint="give data.root",
            )
        self.source = source
        identity = (
            f"phantom {PHANTOM_VERSION} {self.split_seed} {self.image_size} {self.num_images}"
        )
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        return SampleTable.of(source.samples(self.num_images))

    def _read_root(self, root: Path | str) -> SampleTable:
        """Usable samples, each checked."""
        splits = None if self.splits is None else Path(self.splits)
        if self.shards is not None:
            index = self.shards.index(splits=splits, group_pattern=self.group_pattern)
        else:
            index = index_segmentation(
                Path(root),
                mask_suffix=self.mask_suffix,
                splits=splits,
                group_pattern=self.group_pattern,
            )
        return self._checked(index.samples, index.notes)

    def _check(self, samples: Sequence[Sample], *, on_error: OnError) -> CheckResult:
        reading: dict[str, Any] = {
            "num_classes": len(self.class_names),
            "color_map": self.color_map,
            "value_range": self.value_range,
        }
        if self.shards is not None:
            return self.shards.check(samples, reading_of(**reading))
        return check_segmentation(Path(self.given_root()), samples, on_error=on_error, **reading)
