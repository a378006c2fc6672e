"""Sums of losses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medvision.types import MedvisionError


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
