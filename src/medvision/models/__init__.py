"""Networks that map images (N, C, H, W) to logits: one for two classes, K for more.

A network takes uint8 images in [0, 255] or floats in [0, 1] of any height and width and
normalises them itself, so that mean and std are part of its checkpoint. A segmenter returns
logits (N, 1 or K, H, W) of the images' height and width, a classifier (N, 1 or K). The single
logit of two classes is that of class 1.

Names are imported on first use, so that the U-Net does not load smp and timm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
