"""From trained weights and a split to scores, files and plots; each task in its own way.

Names load on first use: what only reads finished runs loads no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
