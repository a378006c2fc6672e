"""Options for reading the files of a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Options that define how file values are interpreted.

    Lists, as in configs and JSON, are converted to tuples.

    Attributes:
        num_classes: Number of mask classes, as for `read_mask`; None for images without masks.
        color_map: As for `read_mask`.
        value_range: As for `read_image`.
        ignore_index: Value in mask files that belongs to no class: neither learned nor scored.
        instances: If True, masks hold the number of an object in each pixel: of two classes, every
            value above 0 is foreground.
        class_names: Names of the mask classes, for annotation files of more than two classes.
        mask_merge: ``union`` (None) or ``majority``: how several masks of an image are combined.
        reduced: If True, JPEG files much larger than the network input are decoded at a reduced
            size, as `decode` does.
    """

    num_classes: int | None = None
    color_map: tuple[tuple[int, int, int], ...] | None = None
    value_range: tuple[float, float] | None = None
    ignore_index: int | None = None
    mask_merge: str | None = None
    instances: bool = False
    class_names: tuple[str, ...] | None = None
    reduced: bool = False

    def __post_init__(self) -> None:
        if self.color_map is not None:
            colours = tuple(tuple(colour) for colour in self.color_map)
            object.__setattr__(self, "color_map", colours)
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.value_range is not None:
            object.__setattr__(self, "value_range", tuple(self.value_range))

    @property
    def has_masks(self) -> bool:
        """True if each image has a mask."""
        return self.num_classes is not None
