"""From a trained network and an image to a result: what notebooks and ``medvision predict`` use.

Names load on first use: an ONNX file is run without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
