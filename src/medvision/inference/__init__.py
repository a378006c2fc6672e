"""Inference with trained networks, for notebooks and ``medvision predict``.

Names are imported on first use, so that ONNX files run without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
