"""Classification scores over a whole epoch, from the probabilities of all images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from medvision.metrics.classification import classification_scores
from medvision.types import IGNORE_INDEX


def probabilities(logits: Tensor) -> Tensor:
    """Convert logits to the probability of every class.

    In float32, all logits above 17 have the probability 1, so that overconfident networks would
    have ties among most images, and an AUROC that ignores their order.

    Args:
        logits: (N, 1), the logit of class 1 of two, or (N, K) with K >= 3, of any floating type, on
            any device.

    Returns:
        float64 (N, K) on the CPU; for two classes columns 1 - p and p. The row of an image with a
        logit that is not finite is NaN.
    """
    if logits.ndim != 2 or logits.shape[1] in (0, 2):
        raise ValueError(
            f"expected logits of shape (N, 1), or (N, K) with K >= 3, got {tuple(logits.shape)}"
        )
    logits = logits.cpu().double()  # some accelerators have no float64
    if logits.shape[1] > 1:
        found = logits.softmax(dim=1)
    else:
        found = torch.cat([-logits, logits], dim=1).sigmoid()  # 1 - p would round
    return torch.where(logits.isfinite().all(1, keepdim=True), found, torch.nan)


class ClassificationScores(Metric):
    """Every score of ``classification_scores`` over an epoch, exact at image level.

    The state is a list with the logits and targets of every batch instead of counts of fixed
    size: AUROC, average precision and the calibration error are exact only if computed from the
    scores themselves, and with K + 1 numbers per image a whole epoch is small. Batches are appended
    on the device without synchronisation; the only transfer is in ``compute``.

    Targets of ``IGNORE_INDEX`` (rows that pad a batch) are ignored. If the epoch has no images or
    any output is not finite, all scores and confusion counts are NaN.

    Args:
        class_names: The K >= 2 classes.
        threshold: In [0, 1]; for two classes, class 1 is predicted where p >= threshold.
        ordered: True if the classes are in a meaningful order, such as grades.
    """

    is_differentiable = False
    full_state_update = False

    rows: list[Tensor]

    def __init__(
        self, *, class_names: Sequence[str], threshold: float = 0.5, ordered: bool = False
    ) -> None:
        super().__init__()
        self.class_names, self.threshold = tuple(class_names), float(threshold)
        self.ordered = ordered
        nothing = np.empty((0, len(class_names))), np.empty(0, np.int64)
        self._names = tuple(  # this also checks the arguments
            classification_scores(*nothing, class_names=class_names, threshold=threshold)
        )
        # flat, because a rank without a batch is also gathered as a flat empty tensor
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Append (N, 1) or (N, K) logits and (N,) targets."""
        if logits.shape != (*target.shape, self._num_logits):
            raise ValueError(
                f"expected logits of {len(self.class_names)} classes and targets (N,), "
                f"got {tuple(logits.shape)} and {tuple(target.shape)}"
            )
        columns = [logits.detach().float(), target.unsqueeze(1).float()]
        self.rows.append(torch.cat(columns, dim=1).flatten())

    @property
    def _num_logits(self) -> int:
        return 1 if len(self.class_names) == 2 else len(self.class_names)

    def compute(self) -> dict[str, Tensor]:
        """Compute every score and count by name, float32 scalars on the CPU."""
        rows = dim_zero_cat(self.rows).cpu() if len(self.rows) else torch.empty(0)
        rows = rows.view(-1, self._num_logits + 1)
        rows = rows[rows[:, -1] != IGNORE_INDEX]
        scores = dict.fromkeys(self._names, float("nan"))
        if len(rows) and rows.isfinite().all():
            scores = classification_scores(
                probabilities(rows[:, :-1]).numpy(),
                rows[:, -1].long().numpy(),
                class_names=self.class_names,
                threshold=self.threshold,
                ordered=self.ordered,
            )
        return {name: torch.tensor(value) for name, value in scores.items()}
