"""Data sets and data modules.

The data modules are imported on first use: reading, indexing and splitting do not need torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
