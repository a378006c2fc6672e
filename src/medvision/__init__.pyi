from .api import audit_dataset as audit_dataset
from .api import compare as compare
from .api import evaluate as evaluate
from .api import load_model as load_model
from .api import read_image as read_image
from .api import read_mask as read_mask
from .api import train as train
from .errors import MedvisionError as MedvisionError

__version__: str
