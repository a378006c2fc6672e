"""From files to batches."""

from medvision.data.datamodule import SegmentationData

__all__ = ["SegmentationData"]
