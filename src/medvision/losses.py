"""Losses, which map logits and targets to a float32 scalar.

Segmentation: logits (N, 1, H, W) or (N, K, H, W), targets (N, H, W). Classification: logits (N, 1)
or (N, K), targets (N,). Entries labelled ``IGNORE_INDEX`` are ignored; if all are, the loss is 0.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.libraries import build_of_monai
from medvision.types import IGNORE_INDEX, single_logit

__all__ = [
    "CrossEntropy",
    "Focal",
    "MaskedLoss",
    "MonaiLoss",
    "WeightedSum",
    "balanced_weights",
]


def _check_num_classes(num_classes: int) -> None:
    """Raise ``MedvisionError`` unless there are at least two classes."""
    if num_classes < 2:
        raise MedvisionError(
            f"expected at least 2 classes, got {num_classes}",
            where="loss.num_classes",
            hint="in segmentation the background counts as one",
        )


def _check_shapes(logits: Tensor, target: Tensor, num_classes: int) -> None:
    """Raise ``ValueError`` unless the shapes of logits and target agree.

    Logits are (N, 1 or K, H, W) for a target (N, H, W), and (N, 1 or K) for a target (N,) of
    integers or (N, K) of floats.
    """
    num_logits = 1 if num_classes == 2 else num_classes
    if target.is_floating_point():
        fits = tuple(target.shape) == (len(logits), num_classes)
        expected = (len(logits), num_logits)
    else:
        fits = target.ndim in (1, 3)
        expected = (*target.shape[:1], num_logits, *target.shape[1:])
    if not fits or tuple(logits.shape) != expected:
        raise ValueError(
            f"expected logits (N, {num_logits}, H, W) and target (N, H, W), or logits "
            f"(N, {num_logits}) and target (N,) or float (N, {num_classes}), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)} of {target.dtype}"
        )


def balanced_weights(counts: Sequence[int]) -> list[float]:
    r"""Compute class weights with which all classes contribute equally to the loss.

    .. math:: w_k = n / (K n_k)

    as in scikit-learn's ``class_weight="balanced"``; the weights of equally frequent classes are 1.

    Args:
        counts: :math:`n_k`, number of training images of each class; n is their sum.

    Returns:
        One weight per class, in the order of ``counts``.

    Raises:
        MedvisionError: If a class has no image, for which no weight can compensate.
    """
    if len(counts) == 0 or min(counts) < 1:
        raise MedvisionError(
            f"classes without a training image cannot be balanced, got counts {list(counts)}",
            where="loss.class_weights",
            hint="give one number per class, or add images of the missing class",
        )
    return [sum(counts) / (len(counts) * count) for count in counts]


class CrossEntropy(nn.Module):
    r"""Mean cross-entropy over the pixels or images that are not ignored.

    .. math:: L = \frac{\sum_i w_i \ell_i}{\sum_i w_i}, \qquad w_i = \sum_k t_{ik} w_k

    with :math:`t_i` the target of i as class shares (one-hot, or soft as from MixUp), and
    :math:`\ell_i` the binary cross-entropy of the logit of class 1 for two classes, the softmax
    cross-entropy for more. With label smoothing :math:`\epsilon`, each class has its own weight in
    the sum, as in PyTorch: :math:`w_i \ell_i` becomes :math:`\sum_k s_{ik} w_k (-\log p_{ik})` for
    the smoothed target :math:`s_{ik} = (1 - \epsilon) t_{ik} + \epsilon / K`; the denominator
    stays. If everything is ignored, the loss and its gradient are 0. Computed in
    float32 under any autocast.

    Args:
        num_classes: K; in segmentation including the background.
        class_weights: :math:`w_k`, one number per class; all 1 if None.
        label_smoothing: Share of the label that is spread evenly over all classes, in [0, 1).

    Raises:
        MedvisionError: If the weights or the smoothing are invalid.
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int = 2,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_num_classes(num_classes)
        if not 0 <= label_smoothing < 1:
            raise MedvisionError(
                f"expected a share in [0, 1), got {label_smoothing}", where="loss.label_smoothing"
            )
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else _weights(class_weights, num_classes)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits for a target of class indices or class shares.

        Args:
            logits: (N, 1 or K, H, W) or (N, 1 or K).
            target: (N, H, W) or (N,) class indices or ``IGNORE_INDEX``; or, for logits without H
                and W, float (N, K) class shares, whose rows sum to 1 (a row of zeros is ignored).
        """
        logits = single_logit(logits, self.num_classes)
        _check_shapes(logits, target, self.num_classes)
        if target.is_floating_point():
            label = target.float()
            weight = (label if self.weights is None else label * self.weights).sum(1)
            positive = label[:, 1]
        else:
            valid = target != IGNORE_INDEX
            label = target.long().masked_fill(~valid, 0)
            weight = valid.float() if self.weights is None else self.weights[label] * valid
            positive = label.float()
        if self.weights is not None and self.label_smoothing:
            shares = label if target.is_floating_point() else F.one_hot(label, self.num_classes)
            shares = shares.movedim(-1, 1).float() if shares.ndim == 4 else shares.float()
            spread = shares.sum(1, keepdim=True) / self.num_classes  # 0 for an ignored row
            smoothed = shares * (1 - self.label_smoothing) + self.label_smoothing * spread
            cost = -log_probabilities(logits) * self.weights.view(1, -1, *[1] * (logits.ndim - 2))
            each = (smoothed * cost).sum(1)
            if not target.is_floating_point():
                each = each * valid
            return each.sum() / weight.sum().clamp_min(torch.finfo(torch.float32).tiny)
        if self.num_classes == 2:
            smoothed = positive * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = F.binary_cross_entropy_with_logits(
                logits[:, 0].float(), smoothed, reduction="none"
            )
        else:
            each = F.cross_entropy(
                logits.float(), label, label_smoothing=self.label_smoothing, reduction="none"
            )
        total = weight.sum().clamp_min(torch.finfo(torch.float32).tiny)
        return (each * weight).sum() / total


def log_probabilities(logits: Tensor) -> Tensor:
    """Compute the logarithm of the probability of every class, float32 (N, K, ...).

    Args:
        logits: (N, 1, ...) of the second of two classes, or (N, K, ...).
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return logits.log_softmax(dim=1)


class Focal(nn.Module):
    r"""Cross-entropy that weighs down pixels or images that are already classified well.

    .. math:: L = -\frac{1}{n} \sum_i (1 - p_i)^\gamma \log p_i

    with :math:`p_i` the predicted probability of the true class of i, by sigmoid for two classes
    and by softmax for more, as in prediction, over the n entries that are not ignored. If
    everything is ignored, the loss and its gradient are 0. Computed in float32 under any autocast.

    Args:
        num_classes: K; in segmentation including the background.
        gamma: :math:`\gamma`; 0 gives the cross-entropy.

    Raises:
        MedvisionError: If there are fewer than two classes, or gamma is negative.

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017,
        https://arxiv.org/abs/1708.02002
    """

    def __init__(self, *, num_classes: int = 2, gamma: float = 2.0) -> None:
        super().__init__()
        _check_num_classes(num_classes)
        if gamma < 0:
            raise MedvisionError(f"expected 0 or more, got {gamma}", where="loss.gamma")
        self.num_classes, self.gamma = num_classes, gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits (N, 1 or K, ...) for class indices (N, ...).

        Raises:
            MedvisionError: For class shares, as from MixUp.
        """
        logits = single_logit(logits, self.num_classes)
        _check_shapes(logits, target, self.num_classes)
        if target.is_floating_point():
            raise MedvisionError(
                "the focal loss takes class indices, not mixed labels",
                where="loss",
                hint="MixUp and CutMix need loss=bce",
            )
        valid = target != IGNORE_INDEX
        label = target.long().masked_fill(~valid, 0).unsqueeze(1)
        with torch.autocast(logits.device.type, enabled=False):
            log_p = log_probabilities(logits).gather(1, label).squeeze(1)
            each = -((1 - log_p.exp()) ** self.gamma) * log_p
            return (each * valid).sum() / valid.sum().clamp_min(1)


def _weights(class_weights: Sequence[float], num_classes: int) -> Tensor:
    """Convert the weights to float32 (K,); raise ``MedvisionError`` if they are invalid."""
    try:
        weights = [float(weight) for weight in class_weights]
    except (TypeError, ValueError):  # a string, or one number for all
        weights = []
    possible = all(0 <= weight < math.inf for weight in weights) and any(weights)
    if len(weights) != num_classes or not possible:
        raise MedvisionError(
            f"{class_weights} is not a valid list of weights for {num_classes} classes",
            where="loss.class_weights",
            hint="give one non-negative number per class",
        )
    return torch.tensor(weights)


class MaskedLoss(nn.Module):
    """A loss of smp with uint8 targets and ignored entries.

    Targets are (N, H, W), and also (N,) for smp's ``FocalLoss``, which treats every entry on its
    own. Computed in float32 under any autocast. If everything is ignored, the loss and its gradient
    are 0.

    In smp's region losses (Dice, Jaccard, Tversky), a class that no pixel of the batch is labelled
    with adds 0 whatever was predicted, but counts in the mean over classes. A batch without
    foreground thus contributes no gradient; add cross-entropy where such batches are common. These
    losses sum over the whole batch, not per image, and Dice for two classes is that of the
    foreground. smp's ``FocalLoss`` for K >= 3 classes trains K sigmoids, but prediction is softmax:
    it can be measured, as for runs of earlier versions, but not trained.

    Args:
        criterion: Class of the loss; called with ``mode`` (``binary`` or ``multiclass``) and
            ``ignore_index``.
        num_classes: K; in segmentation including the background.

    Raises:
        MedvisionError: If the criterion does not accept these arguments.
    """

    def __init__(self, *, criterion: Callable[..., nn.Module], num_classes: int) -> None:
        super().__init__()
        _check_num_classes(num_classes)
        self.num_classes = num_classes
        mode = "binary" if num_classes == 2 else "multiclass"
        try:
            self.criterion = criterion(mode=mode, ignore_index=IGNORE_INDEX)
        except (TypeError, ValueError, AssertionError) as error:
            raise MedvisionError(
                f"cannot build the loss for {num_classes} classes with ignored pixels: {error}",
                where="loss.criterion",
                hint="use one of smp's DiceLoss, TverskyLoss, FocalLoss, LovaszLoss",
            ) from error

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits (N, 1 or K, H, W) for the target (N, H, W).

        Raises:
            MedvisionError: For targets that the criterion does not support: of whole images, unless
                it is the focal loss, or class shares, as from MixUp. While gradients are computed,
                for the focal loss of three or more classes.
        """
        logits = single_logit(logits, self.num_classes)
        _check_shapes(logits, target, self.num_classes)
        name = type(self.criterion).__name__  # smp is imported in the configuration only
        if target.is_floating_point():
            raise MedvisionError(
                f"{name} takes class indices, not mixed labels",
                where="loss",
                hint="MixUp and CutMix need loss=bce",
            )
        if name == "FocalLoss" and self.num_classes > 2 and torch.is_grad_enabled():
            raise MedvisionError(
                f"FocalLoss of smp trains {self.num_classes} sigmoids, but prediction is softmax",
                where="loss.criterion",
                hint="use loss=focal",
            )
        if target.ndim == 1 and name != "FocalLoss":
            raise MedvisionError(
                f"{name} compares regions, but the target is one class per image",
                where="loss",
                hint="use loss=bce or loss=focal",
            )
        # Sums over a batch of masks lose four digits in float32, and the error depends on the
        # number of threads: outside training, a CPU can afford float64.
        measured = not torch.is_grad_enabled() and logits.device.type == "cpu"
        dtype = torch.float64 if measured else torch.float32
        label = target.unsqueeze(1).to(dtype) if self.num_classes == 2 else target.long()
        with torch.autocast(logits.device.type, enabled=False):
            loss = self.criterion(logits.to(dtype), label).float()
        # A mean over no pixels is NaN (smp's focal loss); `where` also keeps it out of gradients.
        return torch.where((target != IGNORE_INDEX).any(), loss, 0.0)


class MonaiLoss(nn.Module):
    """A loss of ``monai.losses`` between labels, with logits and targets as MONAI expects them.

    Targets become (N, 1, H, W) floats, one-hot for several logits; a single logit goes through the
    sigmoid, several through the softmax. Computed in float32 under any autocast. MONAI's losses
    ignore no entries: here those count as background that was predicted with certainty.

    Args:
        name: Name of the class, such as ``DiceCELoss`` or ``TverskyLoss``.
        num_classes: K; in segmentation including the background.
        **options: Further arguments of the class, such as ``lambda_ce`` or ``include_background``.

    Raises:
        MedvisionError: If MONAI has no such loss, it is not one between labels, or it does not
            accept its arguments.
    """

    def __init__(self, *, name: str, num_classes: int, **options: Any) -> None:
        super().__init__()
        _check_num_classes(num_classes)
        self.name, self.num_classes = name, num_classes
        for key in ("weight", "dist_matrix"):
            if isinstance(options.get(key), list | tuple):
                options[key] = torch.tensor(options[key])
        # networks have one or two logits for two classes
        self.of_one = self._build(options, several=False) if num_classes == 2 else None
        self.of_several = self._build(options, several=True)

    def _build(self, options: Mapping[str, Any], *, several: bool) -> nn.Module:
        flags = {
            "to_onehot_y": several,
            "sigmoid": not several,
            "softmax": several,
            "use_softmax": several,
        }
        criterion: nn.Module = build_of_monai(
            "losses", self.name, options, derived=flags, where="loss"
        )
        takes = inspect.signature(type(criterion)).parameters
        if "to_onehot_y" not in takes and "dist_matrix" not in takes:
            raise MedvisionError(
                f"{self.name} does not compare predictions with labels",
                where="loss.name",
                hint="use one such as DiceLoss, DiceCELoss, FocalLoss or TverskyLoss",
            )
        return criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits (N, 1, 2 or K, H, W) for the target (N, H, W).

        Raises:
            MedvisionError: For class shares, as from MixUp, and for targets of whole images, unless
                it is the focal loss.
        """
        if target.is_floating_point() or (target.ndim == 1 and self.name != "FocalLoss"):
            mixed = target.is_floating_point()
            raise MedvisionError(
                f"{self.name} takes class indices, not mixed labels"
                if mixed
                else f"{self.name} compares regions, but the target is one class per image",
                where="loss",
                hint="MixUp and CutMix need loss=bce" if mixed else "use loss=bce or loss=focal",
            )
        two = self.num_classes == 2 and logits.ndim > 1 and logits.shape[1] == 2
        _check_shapes(logits[:, :1] if two else logits, target, self.num_classes)
        criterion = self.of_one if self.of_one is not None and not two else self.of_several
        label, counted = target.unsqueeze(1).float(), target != IGNORE_INDEX
        with torch.autocast(logits.device.type, enabled=False):
            if counted.all():
                value: Tensor = criterion(logits.float(), label)
                return value
            if re.search("hausdorff|cldice", self.name, re.IGNORECASE):
                raise MedvisionError(
                    f"{self.name} needs every pixel, but some are ignored",
                    where="loss.name",
                    hint="use one such as DiceLoss, DiceCELoss, FocalLoss or TverskyLoss",
                )
            # the other losses do not depend on the places of pixels
            values = [
                criterion(image[None, :, kept], labelled[None, :, kept])
                for image, labelled, kept in zip(logits.float(), label, counted, strict=True)
                if kept.any()
            ]
            return torch.stack(values).mean() if values else logits.float().sum() * 0


class WeightedSum(nn.Module):
    r"""Sum of losses, :math:`\sum_i w_i L_i`.

    Args:
        terms: Losses by name.
        weights: :math:`w` by the same names; terms that are not named have weight 1.

    Raises:
        MedvisionError: If there is no term, or a weight without a term.
    """

    def __init__(
        self, *, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        weights = weights or {}
        nameless = sorted(set(weights) - set(terms))
        if not terms or nameless:
            raise MedvisionError(
                f"unknown loss {nameless[0]}" if terms else "expected at least one loss",
                where="loss.weights" if terms else "loss.terms",
                hint=f"the terms are {', '.join(terms)}" if terms else None,
            )
        self.terms = nn.ModuleList(terms.values())
        self.weights = [float(weights.get(name, 1.0)) for name in terms]

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits for the target, in shapes that every term accepts."""
        first, *others = (
            weight * term(logits, target)
            for weight, term in zip(self.weights, self.terms, strict=True)
        )
        return sum(others, start=first)
