"""Callbacks of a fit."""

from medvision.callbacks.checkpoints import BestAndLast, FiniteLoss, Interruption
from medvision.callbacks.finetuning import Finetuning
from medvision.callbacks.metrics_csv import EpochLog
from medvision.callbacks.pictures import (
    ClassificationPictures,
    SegmentationPictures,
    TrackedPictures,
    ValidationPictures,
)
from medvision.callbacks.predictions import ClassProbabilities, Outputs, SegmentationPredictions
from medvision.callbacks.progress import Progress, Throughput
from medvision.callbacks.progressive_size import ProgressiveSize
from medvision.callbacks.pruning import Pruning
from medvision.callbacks.resume_state import ExactState, Handover
from medvision.callbacks.trackers import LateTensorBoard
from medvision.callbacks.xla_watch import XlaWatch

__all__ = [
    "BestAndLast",
    "ClassProbabilities",
    "ClassificationPictures",
    "EpochLog",
    "ExactState",
    "Finetuning",
    "FiniteLoss",
    "Handover",
    "Interruption",
    "LateTensorBoard",
    "Outputs",
    "Progress",
    "ProgressiveSize",
    "Pruning",
    "SegmentationPictures",
    "SegmentationPredictions",
    "Throughput",
    "TrackedPictures",
    "ValidationPictures",
    "XlaWatch",
]
