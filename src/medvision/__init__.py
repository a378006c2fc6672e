"""Train, check and compare 2-D medical-image models. For research use only.

The functions of this package are those of the commands, for Python: `train`, `evaluate`, `compare`,
`audit_dataset`, `load_model`, `read_image` and `read_mask`. They raise `MedvisionError` for what
the user can fix. Names are imported on first use.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
