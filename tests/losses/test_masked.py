from __future__ import annotations

import math
from functools import partial

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from medvision.errors import MedvisionError
from medvision.losses import MaskedLoss
from medvision.types import IGNORE_INDEX

NO, YES = -50.0, 50.0  # logits of certainty


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        # two of three foreground pixels found, one false alarm: TP 2, FP 1, FN 1
        pytest.param(smp.losses.DiceLoss, 1 - 4 / 6, id="dice"),
        pytest.param(smp.losses.JaccardLoss, 1 - 2 / 4, id="jaccard"),
        pytest.param(
            partial(smp.losses.TverskyLoss, alpha=0.3, beta=0.7), 1 - 2 / 3.0, id="tversky"
        ),
        pytest.param(
            partial(smp.losses.TverskyLoss, alpha=1.0, beta=1.0), 1 - 2 / 4, id="tversky-jaccard"
        ),
    ],
)
def test_region_value_by_hand(criterion: type[nn.Module], expected: float) -> None:
    logits = torch.tensor([YES, YES, NO, YES, NO, YES]).view(1, 1, 1, 6)
    target = torch.tensor([1, 1, 1, 0, 0, IGNORE_INDEX], dtype=torch.uint8).view(1, 1, 6)
    loss = MaskedLoss(criterion=criterion, num_classes=2)(logits, target)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_focal_value_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3), 7.0]).view(1, 1, 1, 3)
    target = torch.tensor([[[1, 1, IGNORE_INDEX]]], dtype=torch.uint8)
    expected = (0.5**2 * math.log(2) + 0.25**2 * math.log(4 / 3)) / 2
    loss = MaskedLoss(criterion=smp.losses.FocalLoss, num_classes=2)(logits, target)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_of_sigmoids_is_not_trained_where_prediction_is_softmax() -> None:
    loss = MaskedLoss(criterion=smp.losses.FocalLoss, num_classes=3)
    logits, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(MedvisionError, match=r"3 sigmoids, .* softmax \(loss.criterion\).*=focal"):
        loss(logits, target)
    with torch.no_grad():  # a run of an earlier version is measured as it was trained
        expected = smp.losses.FocalLoss("multiclass")(logits, target.long())
        assert loss(logits, target).item() == pytest.approx(expected.item(), abs=1e-6)
    binary = MaskedLoss(criterion=smp.losses.FocalLoss, num_classes=2)
    assert binary(logits[:, :1], target) > 0


def test_multiclass_dice_is_the_mean_over_classes() -> None:
    predicted, labelled = torch.tensor([0, 0, 1, 1]), [0, 0, 1, 2]
    logits = (nn.functional.one_hot(predicted, 3) * 100.0).T.view(1, 3, 1, 4)
    target = torch.tensor(labelled, dtype=torch.uint8).view(1, 1, 4)
    loss = MaskedLoss(criterion=smp.losses.DiceLoss, num_classes=3)(logits, target)
    assert loss.item() == pytest.approx((0 + 1 / 3 + 1) / 3, abs=1e-6)


def test_a_class_absent_from_the_batch_adds_zero_as_documented() -> None:
    loss = MaskedLoss(criterion=smp.losses.DiceLoss, num_classes=2)
    logits = torch.full((1, 1, 2, 2), YES, requires_grad=True)
    value = loss(logits, torch.zeros(1, 2, 2, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_a_criterion_that_ignores_nothing_is_refused() -> None:
    with pytest.raises(MedvisionError, match=r"\(loss.criterion\)"):
        MaskedLoss(criterion=nn.BCEWithLogitsLoss, num_classes=2)


def test_options_rejected_by_smp_are_reported() -> None:
    criterion = partial(smp.losses.DiceLoss, class_weights=[1.0, 2.0])
    with pytest.raises(MedvisionError, match="class_weights are not supported"):
        MaskedLoss(criterion=criterion, num_classes=2)


@pytest.mark.parametrize("criterion", [smp.losses.DiceLoss, smp.losses.FocalLoss])
def test_the_loss_does_not_depend_on_the_number_of_threads(
    criterion: type[nn.Module],
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(8, 1, 256, 256, generator=generator)
    target = (torch.rand(8, 256, 256, generator=generator) < 0.1).to(torch.uint8)
    loss = MaskedLoss(criterion=criterion, num_classes=2)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                found.append(loss(logits, target))
    finally:
        torch.set_num_threads(before)
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-7)
    assert found[0].dtype == torch.float32
    exact = criterion(mode="binary")(logits.double(), target.unsqueeze(1).double())
    assert found[0].item() == pytest.approx(exact.item(), abs=1e-6)
