from .base import Evaluation as Evaluation
from .base import FinishedRun as FinishedRun
from .base import Score as Score
from .classification import ClassificationEvaluation as ClassificationEvaluation
from .segmentation import SegmentationEvaluation as SegmentationEvaluation
