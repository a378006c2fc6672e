"""Scores with a stated definition.

Names are imported on first use, so that code that needs only NumPy does not load torch. Two
functions share the name of their module and are imported from there: ``operating_points`` and
``size_groups``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
