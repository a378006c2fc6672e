"""What watches a fit."""

from medvision.callbacks.checkpoints import BestAndLast
from medvision.callbacks.class_probabilities import ClassProbabilities
from medvision.callbacks.epoch_log import EpochLog
from medvision.callbacks.exact_state import ExactState
from medvision.callbacks.finetuning import Finetuning
from medvision.callbacks.finite_loss import FiniteLoss
from medvision.callbacks.handover import Handover
from medvision.callbacks.interruption import Interruption
from medvision.callbacks.late_tensorboard import LateTensorBoard
from medvision.callbacks.predictions import SegmentationPredictions
from medvision.callbacks.progress import Progress
from medvision.callbacks.pruning import Pruning
from medvision.callbacks.throughput import Throughput
from medvision.callbacks.xla_watch import XlaWatch

__all__ = [
    "BestAndLast",
    "ClassProbabilities",
    "EpochLog",
    "ExactState",
    "Finetuning",
    "FiniteLoss",
    "Handover",
    "Interruption",
    "LateTensorBoard",
    "Progress",
    "Pruning",
    "SegmentationPredictions",
    "Throughput",
    "XlaWatch",
]
