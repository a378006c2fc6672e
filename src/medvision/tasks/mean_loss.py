"""The mean loss of an epoch."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Mean of the batches' losses, each weighing as many rows as it has.

    torchmetrics' ``MeanMetric`` either looks for NaN, for which it waits for the device, or
    (``nan_strategy="disable"``, 1.9) leaves the weights out. Without a row it is NaN.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    num_rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_rows", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, num_rows: Tensor | int) -> None:
        """Count the loss, a scalar, of ``num_rows`` rows; of 0 rows it counts nowhere."""
        weighted = loss * num_rows
        if isinstance(num_rows, Tensor):  # 0 times a loss that is no number would be no number
            weighted = torch.where(num_rows > 0, weighted, 0.0)
        self.total = self.total + weighted
        self.num_rows = self.num_rows + num_rows

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar."""
        return self.total / self.num_rows
