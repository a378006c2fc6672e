"""Everything that differs between CPU, GPU and TPU.

Names load on first use: ONNX files run without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
