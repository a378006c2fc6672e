"""Losses of segmentation-models-pytorch, behind this package's interface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.losses.base import check_num_classes, check_shapes
from medvision.types import IGNORE_INDEX


class MaskedLoss(nn.Module):
    """A loss of smp that takes uint8 targets, and ignores what is to be ignored.

    Targets are (N, H, W), and for smp's ``FocalLoss``, which judges every entry by itself, also
    (N,). Computed in float32 under any autocast. Where everything is ignored, the loss and its
    gradient are 0.

    What smp's region losses (Dice, Jaccard, Tversky) do with a class that no pixel of the batch
    is labelled with: it adds 0 whatever was predicted, and yet counts in the mean over classes.
    So a batch without foreground teaches them nothing; add cross-entropy where such are common.
    They sum over the whole batch, not image by image, and Dice for two classes is that of the
    foreground. smp's focal loss for K classes is the mean of K one-against-the-rest losses.

    Args:
        criterion: Class of the loss; called with ``mode`` (``binary`` or ``multiclass``) and
            ``ignore_index``.
        num_classes: K; in segmentation the background is one of them.

    Raises:
        MedvisionError: If the criterion does not take these arguments.
    """

    def __init__(self, *, criterion: Callable[..., nn.Module], num_classes: int) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.num_classes = num_classes
        mode = "binary" if num_classes == 2 else "multiclass"
        try:
            self.criterion = criterion(mode=mode, ignore_index=IGNORE_INDEX)
        except (TypeError, ValueError, AssertionError) as error:
            raise MedvisionError(
                f"the loss cannot be made for {num_classes} classes and ignored pixels: {error}",
                where="loss.criterion",
                hint="use one of smp's DiceLoss, TverskyLoss, FocalLoss, LovaszLoss",
            ) from error

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, 1 or K, H, W) for the target (N, H, W).

        Raises:
            MedvisionError: For targets that the criterion cannot judge: of whole images, unless
                it is the focal loss, or shares of the classes, as MixUp makes them.
        """
        check_shapes(logits, target, self.num_classes)
        name = type(self.criterion).__name__  # smp itself is imported in the configuration only
        if target.is_floating_point():
            raise MedvisionError(
                f"{name} takes class indices, not mixed labels",
                where="loss",
                hint="MixUp and CutMix need loss=bce",
            )
        if target.ndim == 1 and name != "FocalLoss":
            raise MedvisionError(
                f"{name} compares regions, and the target is one class per image",
                where="loss",
                hint="use loss=bce or loss=focal",
            )
        # Sums over a batch of masks lose four digits in float32, and which ones depends on the
        # number of threads: where nothing is learnt, a CPU has the time to count exactly.
        measured = not torch.is_grad_enabled() and logits.device.type == "cpu"
        dtype = torch.float64 if measured else torch.float32
        label = target.unsqueeze(1).to(dtype) if self.num_classes == 2 else target.long()
        with torch.autocast(logits.device.type, enabled=False):
            loss = self.criterion(logits.to(dtype), label).float()
        # A mean over no pixels is NaN (smp's focal loss); `where` also keeps it out of gradients.
        return torch.where((target != IGNORE_INDEX).any(), loss, 0.0)
