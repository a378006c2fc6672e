"""Data module for segmentation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.datamodule import ImageData
from medvision.data.discovery.index import Index, index_segmentation
from medvision.data.reading import Reading
from medvision.data.samples import Sample
from medvision.data.sources import PhantomSource, PolypPhantoms
from medvision.data.splits.assign import foreground_strata
from medvision.data.validation.validate import CheckResult
from medvision.errors import MedvisionError


class SegmentationData(ImageData):
    """Images and masks of a folder, or the synthetic phantom set, in three splits.

    Batches hold uint8 images (N, C, size, size) and uint8 class indices (N, size, size).

    Args:
        class_names: Name of each class, the background first.
        num_classes: Number of classes; stated explicitly because model and loss also use it.
        color_map: One RGB triple per class, for colour masks.
        mask_suffix: Suffix of a mask's stem after the stem of its image.
        **common: As for `ImageData`.
    """

    task = "segmentation"

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
                f"expected {num_classes} class names, got {len(class_names)}",
                where="data.num_classes",
                hint="name every class, the background first, in data.class_names",
            )
        if not self.transforms["test"].keeps_pixels_in_place():
            raise MedvisionError(
                "expected transforms of validation and test images that keep pixels in place",
                where="data.eval_transforms",
                hint="masks would not match their files: move the others to data.train_transforms",
            )
        self.class_names, self.mask_suffix = list(class_names), mask_suffix
        self.reading = Reading(
            num_classes=num_classes,
            color_map=color_map,  # type: ignore[arg-type]  # converts lists to tuples
            value_range=self.reading.value_range,
        )

    def read_at_network_size(
        self, path: str, target: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read an image and its mask as in validation and test."""
        image, mask = self.source.read(Sample(path=path, target=target))
        image, mask = self.transforms["test"](image, mask, seed=0)
        assert mask is not None  # every sample has a mask
        return image, mask

    def listing(self) -> Callable[..., Index]:
        return partial(index_segmentation, mask_suffix=self.mask_suffix)

    def phantoms(self, **common: Any) -> PhantomSource:
        if len(self.class_names) != 2:
            raise MedvisionError(
                f"the phantoms have 2 classes, got {len(self.class_names)} names",
                where="data.class_names",
                hint="set data.root",
            )
        return PolypPhantoms(**common)

    def stratify_by(self, checked: CheckResult) -> list[str] | None:
        masks = None if checked.properties is None else checked.properties.mask
        return None if masks is None else foreground_strata(masks.foreground.tolist())
