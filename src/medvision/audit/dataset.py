"""A data set as the audit looks at it: its samples with what their files tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.data.duplicates.search import THRESHOLD, NearDuplicates
from medvision.data.samples import Sample, SampleTable
from medvision.data.validation.properties import ImageProperties, MaskProperties


@dataclass(frozen=True, kw_only=True)
class ListedSet:
    """The images of one folder, or of two that are held against each other, by their names.

    Attributes:
        name: What the screen and the page call it.
        task: What the images are for.
        roots: The folder, or two of them: the first is then train and the second test.
        samples: N usable samples; their splits are empty where none was given.
        origin: Index into ``roots`` of each sample, integers (N,).
        class_names: Of a classification set, by class index; empty for segmentation.
    """

    name: str
    task: Literal["classification", "segmentation"]
    roots: tuple[Path, ...]
    samples: Sequence[Sample]
    origin: NDArray[np.int8]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def splits(self) -> NDArray[np.str_]:
        """Split of each sample, ``""`` where none was given, (N,)."""
        names, number = SampleTable.of(self.samples).splits.numbered()
        return np.array(names, np.str_)[number]

    @property
    def has_classes(self) -> bool:
        """Each image has a class."""
        return bool(self.class_names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each sample, (N,); -1 without classes."""
        if not self.has_classes:
            return np.full(len(self), -1, np.int64)
        index = {name: number for number, name in enumerate(self.class_names)}
        names, number = SampleTable.of(self.samples).targets.numbered()
        return np.array([index[name] for name in names], np.int64)[number]

    def file(self, row: int) -> Path:
        """Where the image of a row lies."""
        return self.roots[int(self.origin[row])] / self.samples[row].path

    def mask_file(self, row: int) -> Path:
        """Where the mask of a row lies; for segmentation."""
        return self.roots[int(self.origin[row])] / self.samples[row].target

    def shown(self, row: int) -> str:
        """Path of a row's image below its root; of two roots, with the name of the root."""
        return self.shown_path(self.samples[row].path, origin=int(self.origin[row]))

    def shown_path(self, path: str, *, origin: int) -> str:
        """A path below a root as `shown` writes it."""
        if len(self.roots) == 1:
            return path
        names = [root.name for root in self.roots]
        root = self.roots[origin]
        return f"{root.name if len(set(names)) > 1 else root.as_posix()}/{path}"


@dataclass(frozen=True, kw_only=True)
class AuditedSet(ListedSet):
    """A listed set whose files were read.

    Attributes:
        properties: Of each file, N rows in the order of the samples.
        near_duplicates: Images that show the same picture, by the same rows.
        faults: Path and reason of each file that cannot be used.
        notes: What a reader should know of how the folder was read.
        threshold: Correlation from which two images count as twins.
        num_classes: Of the masks, the background included.
    """

    properties: ImageProperties
    near_duplicates: NearDuplicates
    faults: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    threshold: float = THRESHOLD
    num_classes: int = 2

    def __post_init__(self) -> None:
        lengths = {
            "samples": len(self.samples),
            "origin": len(self.origin),
            "properties": len(self.properties),
            "near-duplicates": len(self.near_duplicates.groups),
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected as many rows of each, got {lengths}")
        if self.has_masks == self.has_classes:
            raise ValueError(f"expected either masks or classes, for {self.task}")

    @property
    def has_masks(self) -> bool:
        """Each image has a mask."""
        return self.properties.mask is not None

    @property
    def masks(self) -> MaskProperties:
        """Properties of the masks of a set that has them."""
        assert self.properties.mask is not None
        return self.properties.mask


def join_properties(parts: Sequence[ImageProperties]) -> ImageProperties:
    """The rows of several tables below each other.

    Raises:
        ValueError: If there are none, or only some have masks.
    """
    masks = [part.mask for part in parts if part.mask is not None]
    if not parts or len(masks) not in (0, len(parts)):
        raise ValueError(f"expected tables that all or none have masks, got {len(parts)}")
    columns = _joined(parts)
    return ImageProperties(**columns, mask=MaskProperties(**_joined(masks)) if masks else None)


def _joined(parts: Sequence[Any]) -> dict[str, Any]:
    names = [field.name for field in fields(parts[0]) if field.name != "mask"]
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
