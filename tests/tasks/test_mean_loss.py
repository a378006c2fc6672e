import math

import pytest
import torch

from medvision.tasks.base import MeanLoss


def test_a_batch_is_weighted_by_its_rows() -> None:
    mean = MeanLoss()
    mean.update(torch.tensor(1.0), 4)
    mean.update(torch.tensor(6.0), torch.tensor(1))
    assert mean.compute().item() == pytest.approx((4 * 1 + 1 * 6) / 5)
    assert mean.compute().dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 3.0, math.nan, math.inf])
def test_a_batch_without_rows_is_ignored(value: float) -> None:
    mean = MeanLoss()
    mean.update(torch.tensor(2.0), torch.tensor(3))
    mean.update(torch.tensor(value), torch.tensor(0))
    assert mean.compute() == 2.0


@pytest.mark.parametrize("num_rows", [2, torch.tensor(2)])
def test_a_nan_loss_stays_nan(num_rows: int | torch.Tensor) -> None:
    mean = MeanLoss()
    mean.update(torch.tensor(1.0), num_rows)
    mean.update(torch.tensor(math.nan), num_rows)
    assert mean.compute().isnan()


def test_an_epoch_without_a_row_has_no_mean() -> None:
    mean = MeanLoss()
    mean.update(torch.tensor(1.0), torch.tensor(0))
    assert mean.compute().isnan()


def test_reset_forgets() -> None:
    mean = MeanLoss()
    mean.update(torch.tensor(9.0), 4)
    mean.reset()
    mean.update(torch.tensor(2.0), 1)
    assert mean.compute() == 2.0
