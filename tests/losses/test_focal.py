import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy, Focal
from medvision.types import IGNORE_INDEX


def test_two_classes_agree_with_smp() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 5, 6, generator=generator) * 3
    target = torch.randint(2, (4, 5, 6), generator=generator)
    expected = smp.losses.FocalLoss("binary")(logits, target.unsqueeze(1).float())
    torch.testing.assert_close(Focal()(logits, target), expected)


def test_several_classes_use_the_softmax_of_prediction() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, 5, 6, generator=generator) * 3
    target = torch.randint(3, (4, 5, 6), generator=generator)
    cost = F.cross_entropy(logits, target, reduction="none")
    expected = ((1 - (-cost).exp()) ** 2 * cost).mean()
    torch.testing.assert_close(Focal(num_classes=3)(logits, target), expected)
    # a constant added to all logits changes no prediction, and no loss
    torch.testing.assert_close(Focal(num_classes=3)(logits + 5, target), expected)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_gamma_zero_is_the_cross_entropy(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(7, 1 if num_classes == 2 else num_classes, generator=generator)
    target = torch.randint(num_classes, (7,), generator=generator)
    target[3] = IGNORE_INDEX
    plain = CrossEntropy(num_classes=num_classes)(logits, target)
    torch.testing.assert_close(Focal(num_classes=num_classes, gamma=0)(logits, target), plain)


def test_mixed_labels_and_a_negative_gamma_are_refused() -> None:
    with pytest.raises(MedvisionError, match="takes class indices, not mixed labels"):
        Focal()(torch.zeros(2, 1), torch.full((2, 2), 0.5))
    with pytest.raises(MedvisionError, match=r"expected 0 or more, got -1 \(loss.gamma\)"):
        Focal(gamma=-1)
