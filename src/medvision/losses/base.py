"""Shape check of every loss, and weighted sums of losses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medvision.errors import MedvisionError


def check_num_classes(num_classes: int) -> None:
    """Raise ``MedvisionError`` unless there are at least two classes."""
    if num_classes < 2:
        raise MedvisionError(
            f"a loss needs at least 2 classes, got {num_classes}",
            where="loss.num_classes",
            hint="in segmentation the background counts as one",
        )


def check_shapes(logits: Tensor, target: Tensor, num_classes: int) -> None:
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


class WeightedSum(nn.Module):
    r"""Sum of losses, :math:`\sum_i w_i L_i`.

    Args:
        terms: Losses by name.
        weights: :math:`w` by the same names; those that are not named have weight 1.

    Raises:
        MedvisionError: If there is no term, or a weight without one.
    """

    def __init__(
        self, *, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        weights = weights or {}
        nameless = sorted(set(weights) - set(terms))
        if not terms or nameless:
            raise MedvisionError(
                f"no loss is called {nameless[0]}" if terms else "a sum needs at least one loss",
                where="loss.weights" if terms else "loss.terms",
                hint=f"the terms are {', '.join(terms)}" if terms else None,
            )
        self.terms = nn.ModuleList(terms.values())
        self.weights = [float(weights.get(name, 1.0)) for name in terms]

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits for the target, of the shapes that every term takes."""
        first, *others = (
            weight * term(logits, target)
            for weight, term in zip(self.weights, self.terms, strict=True)
        )
        return sum(others, start=first)
