"""From files to batches.

The data modules load on first use: reading, indexing and splitting need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
