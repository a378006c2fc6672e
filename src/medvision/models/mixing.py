"""MixUp and CutMix of the images of a batch and their targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvision.errors import MedvisionError


class BatchMixing:
    r"""MixUp and CutMix: each image is mixed with the one at the mirrored position in the batch.

    MixUp computes :math:`\lambda x_i + (1 - \lambda) x_j`; CutMix pastes a rectangle of :math:`x_j`
    into :math:`x_i`, and :math:`\lambda` is the share of pixels that remain. Targets are mixed with
    the same :math:`\lambda`, drawn once per batch from Beta(alpha, alpha). If both alphas are
    positive, each batch uses one of the two at random; if neither is, nothing is mixed. In a batch
    of odd size the last image is duplicated for mixing.

    Args:
        mixup_alpha: 0 disables MixUp; 0.2 mixes little, 1 draws every share with equal probability.
        cutmix_alpha: 0 disables CutMix.
        num_classes: K.
        seed: Random seed, combined with the step; processes that see different images may share
            it.

    Raises:
        MedvisionError: If an alpha is negative.

    References:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018,
        https://arxiv.org/abs/1710.09412.
        Yun et al., CutMix, ICCV 2019, https://arxiv.org/abs/1905.04899
    """

    def __init__(
        self, *, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0, num_classes: int, seed: int
    ) -> None:
        from timm.data.mixup import Mixup  # takes seconds to import, and few runs use it

        make: Any = Mixup  # not annotated upstream

        for key, alpha in {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha}.items():
            if alpha < 0:
                raise MedvisionError(
                    f"expected an alpha of at least 0, got {alpha}",
                    where=key,
                    hint="use 0 for none",
                )
        if num_classes < 2:
            raise ValueError(f"expected at least 2 classes, got {num_classes}")
        self.seed = seed
        self._mix = make(
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            num_classes=num_classes,
            label_smoothing=0.0,
        )
        self._mix.mixup_enabled = mixup_alpha > 0 or cutmix_alpha > 0

    def __call__(self, image: Tensor, target: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mix one batch; equal seed and step give equal mixing.

        Args:
            image: uint8 (N, C, H, W), unchanged.
            target: Class indices (N,); ``IGNORE_INDEX`` is not supported.
            step: Index of the batch, at least 0.

        Returns:
            Image, float32 in [0, 1], (N, C, H, W), and class shares, float32 (N, K), whose rows sum
            to 1, on the image's device.
        """
        if image.dtype != torch.uint8 or image.ndim != 4 or target.shape != image.shape[:1]:
            raise ValueError(
                f"expected uint8 images (N, C, H, W) and targets (N,), got {image.dtype} "
                f"{tuple(image.shape)} and {tuple(target.shape)}"
            )
        num_samples = len(image)
        if num_samples % 2:
            image, target = torch.cat([image, image[-1:]]), torch.cat([target, target[-1:]])

        (number,) = np.random.SeedSequence([self.seed, step]).generate_state(1)
        before = np.random.get_state()  # noqa: NPY002 - timm draws from the global state
        np.random.seed(int(number))  # noqa: NPY002
        try:
            mixed, shares = self._mix(image.float() / 255, target.to(image.device))
        finally:
            np.random.set_state(before)  # noqa: NPY002
        return mixed[:num_samples], shares[:num_samples]
