from .load import load_network as load_network
from .model import Model as Model
from .model import load_model as load_model
from .model_card import ModelCard as ModelCard
from .predict import predict_files as predict_files
from .results import ClassificationResult as ClassificationResult
from .results import Result as Result
from .results import SegmentationResult as SegmentationResult
