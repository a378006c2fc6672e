"""Wrappers for further metrics: a mean over images, and predicted classes."""

import pytest
import torch
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy, BinaryPrecision
from torchmetrics.segmentation import DiceScore

from medvision.metrics import OfClasses, PerImage

PROBABILITY = torch.tensor([[[0.9, 0.1]], [[0.9, 0.9]], [[0.2, 0.2]]])
TARGET = torch.tensor([[[1, 0]], [[1, 0]], [[1, 1]]])


class Share(Metric):
    """Predicted share of the labelled foreground; NaN without any."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("found", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("all", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probability: torch.Tensor, target: torch.Tensor) -> None:
        self.found += ((probability >= 0.5) & (target == 1)).sum()
        self.all += (target == 1).sum()

    def compute(self) -> torch.Tensor:
        return self.found / self.all


def test_the_mean_over_images_is_that_of_each_image_alone() -> None:
    metric = PerImage(metric=BinaryAccuracy())
    metric.update(PROBABILITY[:2], TARGET[:2])
    metric.update(PROBABILITY[2:], TARGET[2:])
    assert float(metric.compute()) == pytest.approx((1 + 0.5 + 0) / 3)
    assert metric.values == pytest.approx([1, 0.5, 0])
    metric.reset()
    metric.update(PROBABILITY[:1], TARGET[:1])
    assert float(metric.compute()) == 1
    assert metric.values == [1]


def test_images_without_a_value_are_left_out_of_the_mean() -> None:
    metric = PerImage(metric=Share())
    metric.update(PROBABILITY, torch.tensor([[[1, 0]], [[0, 0]], [[1, 1]]]))
    assert float(metric.compute()) == 0.5
    assert torch.tensor(metric.values).isnan().tolist() == [False, True, False]


def test_its_direction_is_that_of_the_wrapped_metric() -> None:
    assert PerImage(metric=Share()).higher_is_better is True
    assert OfClasses(metric=BinaryPrecision()).higher_is_better is True


def test_metrics_of_classes_get_the_most_likely_class() -> None:
    of_two = OfClasses(metric=BinaryAccuracy(), threshold=0.95)
    of_two.update(PROBABILITY, TARGET)
    assert float(of_two.compute()) == pytest.approx(2 / 6)  # everything is background
    classes = torch.tensor([[[0, 1], [2, 1]]])
    probability = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()
    of_three = OfClasses(metric=DiceScore(num_classes=3, input_format="index"))
    of_three.update(probability, classes)
    assert float(of_three.compute()) == 1
    of_three.reset()
    of_three.update(probability, classes.flip(1))
    assert float(of_three.compute()) < 1


def test_what_is_no_metric_or_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torchmetrics\.Metric, got Linear"):
        PerImage(metric=torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    metric = PerImage(metric=DiceScore(num_classes=2, average="none", input_format="index"))
    with pytest.raises(ValueError, match="expected a number for each image"):
        metric.update(TARGET, TARGET)
