from .write import Exported as Exported
from .write import Format as Format
from .write import default_name as default_name
from .write import export_model as export_model
