"""Scores with a stated definition.

Names are imported on first use, so that code that needs only NumPy does not load torch. Those that
no other package needs often are imported from their module.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
