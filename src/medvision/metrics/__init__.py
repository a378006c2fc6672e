"""Scores whose definition is stated.

Names load on first use: what needs only NumPy loads no torch. Two functions bear the name of their
module and are imported from there: ``operating_points`` and ``size_groups``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
