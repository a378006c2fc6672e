"""LightningModules: one network, one loss, the same measurement at every stage."""

from medvision.tasks.base import Task, backbone_modules
from medvision.tasks.classification import ClassificationTask
from medvision.tasks.segmentation import SegmentationTask

__all__ = ["ClassificationTask", "SegmentationTask", "Task", "backbone_modules"]
