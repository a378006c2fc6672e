"""Networks: images (N, C, H, W) in, logits out: one for two classes, K for more.

A network takes uint8 images in [0, 255] or floats in [0, 1] of any height and width and
normalises them itself, so that mean and std travel in its checkpoint. A segmenter gives
logits (N, 1 or K, H, W) of the images' height and width, a classifier (N, 1 or K). The one
logit of two classes is that of class 1.

Every name is imported on first use: the U-Net must not wait for smp and timm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
