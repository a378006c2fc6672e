from .classification import ClassificationData as ClassificationData
from .datamodule import ImageData as ImageData
from .segmentation import SegmentationData as SegmentationData
