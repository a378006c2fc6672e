"""Losses of MONAI by name."""

import monai.losses
import pytest
import torch

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy, MonaiLoss
from medvision.types import IGNORE_INDEX, single_logit


@pytest.mark.parametrize("name", ["DiceCELoss", "TverskyLoss", "FocalLoss"])
@pytest.mark.parametrize(("num_classes", "num_logits"), [(2, 1), (2, 2), (4, 4)])
def test_it_is_the_loss_of_monai(name: str, num_classes: int, num_logits: int) -> None:
    logits = torch.randn(3, num_logits, 8, 8)
    target = torch.randint(0, num_classes, (3, 8, 8))
    several = num_logits > 1
    flag = {"use_softmax": several} if name == "FocalLoss" else {"softmax": several}
    if name != "FocalLoss":
        flag["sigmoid"] = not several
    expected = getattr(monai.losses, name)(to_onehot_y=several, **flag)
    found = MonaiLoss(name=name, num_classes=num_classes)(logits, target)
    assert found == pytest.approx(float(expected(logits, target.unsqueeze(1).float())))


def test_options_are_passed_on() -> None:
    logits, target = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 8, 8))
    parts = [
        MonaiLoss(name="DiceCELoss", num_classes=2, lambda_dice=dice, lambda_ce=1 - dice)
        for dice in (0.0, 0.5, 1.0)
    ]
    entropy, both, dice = (float(part(logits, target)) for part in parts)
    assert both == pytest.approx((entropy + dice) / 2)


def test_the_focal_loss_also_compares_whole_images() -> None:
    logits, target = torch.randn(5, 4), torch.randint(0, 4, (5,))
    focal = MonaiLoss(name="FocalLoss", num_classes=4, gamma=0.0)
    one_hot = torch.nn.functional.one_hot(target, 4)
    expected = -(logits.log_softmax(1) * one_hot).mean()
    assert float(focal(logits, target)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_ignored_pixels_neither_count_nor_train(num_classes: int) -> None:
    logits = torch.randn(2, 1 if num_classes == 2 else 3, 4, 4, requires_grad=True)
    target = torch.full((2, 4, 4), IGNORE_INDEX)
    loss = MonaiLoss(name="DiceCELoss", num_classes=num_classes)(logits, target)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"name": "DiceLos"}, "MONAI has no DiceLos in monai.losses (loss.name); did you"),
        ({"name": "one_hot"}, "MONAI has no one_hot in monai.losses"),
        ({"name": "DiceLoss", "softmax": True}, "softmax is set here (loss.softmax)"),
        ({"name": "DiceLoss", "lamda": 1}, "DiceLoss has no option lamda (loss.lamda)"),
        ({"name": "SSIMLoss", "spatial_dims": 2}, "SSIMLoss does not compare predictions with"),
        ({"name": "DiceLoss", "reduction": "/etc/x"}, "'/etc/x' may name a file or an address"),
        (
            {"name": "PerceptualLoss", "spatial_dims": 2, "pretrained_path": "x"},
            "PerceptualLoss loads no weights here (loss.pretrained_path)",
        ),
        (
            {"name": "PerceptualLoss", "spatial_dims": 2, "network_type": "radimagenet_resnet50"},
            "monai.losses.PerceptualLoss changes [",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict, line: str) -> None:
    with pytest.raises(MedvisionError) as error:
        MonaiLoss(num_classes=2, **options)
    assert line in str(error.value)


def test_regions_need_masks() -> None:
    with pytest.raises(MedvisionError, match="DiceLoss compares regions"):
        MonaiLoss(name="DiceLoss", num_classes=2)(torch.zeros(3, 1), torch.zeros(3).long())


def test_two_logits_of_two_classes_are_the_softmax_of_both() -> None:
    logits, target = torch.randn(3, 2, 4, 4), torch.randint(0, 2, (3, 4, 4))
    single = single_logit(logits, 2)
    assert torch.allclose(single.sigmoid()[:, 0], logits.softmax(1)[:, 1])
    assert single_logit(logits, 3) is logits
    expected = torch.nn.functional.cross_entropy(logits, target)
    assert float(CrossEntropy(num_classes=2)(logits, target)) == pytest.approx(float(expected))
