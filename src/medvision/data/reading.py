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
    """

    num_classes: int | None = None
    color_map: tuple[tuple[int, int, int], ...] | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.color_map is not None:
            colours = tuple(tuple(colour) for colour in self.color_map)
            object.__setattr__(self, "color_map", colours)
        if self.value_range is not None:
            object.__setattr__(self, "value_range", tuple(self.value_range))

    @property
    def has_masks(self) -> bool:
        """True if each image has a mask."""
        return self.num_classes is not None
