"""From files to batches.

The data module loads on first use: reading, indexing and splitting need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Lightning takes seconds to import
    from medvision.data.datamodule import SegmentationData

__all__ = ["SegmentationData"]


def __getattr__(name: str) -> Any:
    """Import the data module when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from medvision.data.datamodule import SegmentationData

    return SegmentationData
