"""LightningModules: one network, one loss, the same measurement at every stage."""

from medvision.tasks.base import Task
from medvision.tasks.segmentation import SegmentationTask

__all__ = ["SegmentationTask", "Task"]
