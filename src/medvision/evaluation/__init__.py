"""Evaluation of trained weights on a split: scores, files and plots for each task.

Names are imported on first use, so that code that only reads finished runs does not load torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
