"""From trained weights and a split to scores, files and plots; each task in its own way."""

from medvision.evaluation.base import Evaluation, Score
from medvision.evaluation.classification import ClassificationEvaluation
from medvision.evaluation.segmentation import SegmentationEvaluation

__all__ = ["ClassificationEvaluation", "Evaluation", "Score", "SegmentationEvaluation"]
