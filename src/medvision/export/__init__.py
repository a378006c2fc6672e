"""Export of trained networks to files for other programs, checked against the original."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
