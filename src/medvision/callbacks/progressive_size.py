"""Train on smaller images first."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from medvision.console import print_line
from medvision.errors import MedvisionError


class ProgressiveSize(Callback):
    """Reduce the images of the first training steps, which are cheaper then.

    The size grows linearly with the step, in multiples of ``multiple_px``, from ``initial_scale``
    to the full size. Validation and test always use the full size. The size depends only on the
    step, so a resumed run continues with the same one. XLA, which would compile the step for every
    size, gets the full size throughout. Follows ``ProgressiveResizing`` of Composer
    (https://docs.mosaicml.com/projects/composer), with antialiased bilinear images and
    nearest-neighbour masks. An epoch that ended with a reduced size is not chosen as the best one
    after an epoch of full size has ended: its network was trained for another size.

    Args:
        initial_scale: First size divided by the full one, in (0, 1].
        delay_fraction: Share of all steps with the first size, in [0, 1].
        finetune_fraction: Share of all steps at the end with the full size, in [0, 1].
        multiple_px: Sizes in between are multiples of it; a network with stride 32 pads others.

    Attributes:
        is_reduced: True if the images of the last step were smaller than the full size.

    Raises:
        MedvisionError: If the two shares add up to more than 1, or the batches are not dicts.
    """

    def __init__(
        self,
        *,
        initial_scale: float = 0.5,
        delay_fraction: float = 0.5,
        finetune_fraction: float = 0.2,
        multiple_px: int = 32,
    ) -> None:
        if delay_fraction + finetune_fraction > 1:
            raise MedvisionError(
                "expected delay_fraction and finetune_fraction to add up to at most 1, got"
                f" {delay_fraction:g} and {finetune_fraction:g}",
                where="callbacks.progressive_size",
                hint="lower one of them",
            )
        self.initial_scale = initial_scale
        self.delay_fraction, self.finetune_fraction = delay_fraction, finetune_fraction
        self.multiple_px = multiple_px
        self.is_reduced = False
        self._compiles = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._compiles = pl_module.device.type == "xla"
        if self._compiles and trainer.is_global_zero:
            print_line(
                "note: images have their full size in every step: XLA would compile the step again"
                " for each size (callbacks.progressive_size)"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._compiles:
            return
        if not isinstance(batch, dict):
            raise MedvisionError(
                f"expected batches that are dicts, got a {type(batch).__name__}",
                where="callbacks=progressive_size",
                hint="return dicts with image and target from the dataset",
            )
        progress = trainer.global_step / trainer.estimated_stepping_batches
        height, width = batch["image"].shape[-2:]
        size = (self.size_at(progress, height), self.size_at(progress, width))
        self.is_reduced = size != (height, width)
        if self.is_reduced:
            target = batch["target"]
            batch["image"] = _reduced(batch["image"], size)
            if target.ndim > 2 and target.shape[-2:] == (height, width):
                batch["target"] = _picked(target, size)

    def size_at(self, progress: float, full_px: int) -> int:
        """Return the number of pixels along an axis.

        Args:
            progress: Share of all steps done, in [0, 1).
            full_px: Full number.
        """
        growth = 1 - self.delay_fraction - self.finetune_fraction
        if progress >= 1 - self.finetune_fraction:
            return full_px
        done = max(0.0, progress - self.delay_fraction) / growth if growth > 0 else 0.0
        scale = self.initial_scale + (1 - self.initial_scale) * done
        return min(full_px, max(1, round(full_px * scale / self.multiple_px)) * self.multiple_px)


def _reduced(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", antialias=True)


def _picked(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest pixels of masks (N, H, W) or (N, L, H, W), of any type."""
    rows, columns = (
        ((torch.arange(out, device=target.device) + 0.5) * (full / out)).long()
        for full, out in zip(target.shape[-2:], size, strict=True)
    )
    return target[..., rows[:, None], columns]
