"""Class weights from how often each class occurs."""

from __future__ import annotations

from collections.abc import Sequence

from medvision.types import MedvisionError


def balanced_weights(counts: Sequence[int]) -> list[float]:
    r"""Weights with which every class counts as much in the loss as any other.

    .. math:: w_k = n / (K n_k)

    as scikit-learn's ``class_weight="balanced"``; images of equally frequent classes weigh 1.

    Args:
        counts: :math:`n_k`, training images of each class; n is their sum.

    Returns:
        One weight per class, in the order of ``counts``.

    Raises:
        MedvisionError: If a class has no image: no weight makes up for that.
    """
    if len(counts) == 0 or min(counts) < 1:
        raise MedvisionError(
            f"classes without a training image cannot be balanced, got counts {list(counts)}",
            where="loss.class_weights",
            hint="give one number per class, or add images of the missing class",
        )
    return [sum(counts) / (len(counts) * count) for count in counts]
