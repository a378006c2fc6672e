"""Data module for segmentation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.console import counted
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
        num_classes: Number of classes; None for that of ``class_names``.
        color_map: One RGB triple per class, for colour masks.
        mask_suffix: As in `FolderKeys`, and so the keys up to ``roi``.
        mask_pattern: See ``mask_suffix``.
        mask_template: See ``mask_suffix``.
        annotator: See ``mask_suffix``.
        mask_merge: See ``mask_suffix``.
        roi: See ``mask_suffix``.
        ignore_index: As in `Reading`.
        instances: As in `Reading`.
        **common: As for `ImageData`.
    """

    task = "segmentation"

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        num_classes: int | None = None,
        color_map: Sequence[tuple[int, int, int]] | None = None,
        mask_suffix: str = "",
        mask_pattern: str | None = None,
        mask_template: str | None = None,
        annotator: str | None = None,
        mask_merge: str | None = None,
        roi: str | None = None,
        ignore_index: int | None = None,
        instances: bool = False,
        **common: Any,
    ) -> None:
        counts = {"num_classes": num_classes, "color_map": len(color_map or ()) or None}
        for key, count in counts.items():
            if count not in (None, len(class_names)):
                what = "for" if key == "num_classes" else "colours for"
                raise MedvisionError(
                    f"data.{key}: {count} {what} {counted(len(class_names), 'class name')},"
                    f" {', '.join(class_names)}",
                    where="data.class_names",
                    hint="name every class, the background first, such as"
                    " 'data.class_names=[background,polyp,tool]'",
                )
        num_classes = len(class_names)
        super().__init__(
            layout={
                "mask_suffix": mask_suffix,
                "mask_pattern": mask_pattern,
                "mask_template": mask_template,
                "annotator": annotator,
                "mask_merge": mask_merge,
                "roi": roi,
                "num_classes": num_classes,
            },
            **common,
        )
        if not self.transforms["test"].keeps_pixels_in_place():
            raise MedvisionError(
                "expected transforms of validation and test images that keep pixels in place",
                where="data.eval_transforms",
                hint="masks would not match their files: move the others to data.train_transforms",
            )
        self.class_names = list(class_names)
        self.reading = Reading(
            num_classes=num_classes,
            color_map=color_map,  # type: ignore[arg-type]  # converts lists to tuples
            value_range=self.reading.value_range,
            reduced=self.reading.reduced,
            ignore_index=ignore_index,
            mask_merge=mask_merge,
            instances=instances,
            class_names=tuple(class_names) if num_classes > 2 else None,
        )

    def read_at_network_size(
        self, path: str, target: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read an image and its mask as in validation and test."""
        image, mask = self.source.read_for(Sample(path=path, target=target), self.image_size)
        image, mask = self.transforms["test"](image, mask, seed=0)
        assert mask is not None  # every sample has a mask
        return image, mask

    def read_masks(self, path: str, masks: Sequence[str]) -> list[NDArray[np.uint8]]:
        """Read several masks of one image as class indices (H, W), at their original size."""
        read = (self.source.read(Sample(path=path, target=mask))[1] for mask in masks)
        return [mask for mask in read if mask is not None]

    def listing(self) -> Callable[..., Index]:
        return partial(index_segmentation, keys=self.keys)

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
