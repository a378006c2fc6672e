"""Networks of MONAI by name, and networks of two logits."""

import pytest
import torch
from torch import nn

from medvision.errors import MedvisionError
from medvision.models import MonaiNetwork, Normalized


def test_a_network_of_monai_has_two_dimensions_and_the_logits_of_the_classes() -> None:
    image = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    features = (4, 4, 8, 8, 8, 4)
    segmenter = MonaiNetwork(name="BasicUNet", in_channels=1, num_classes=2, features=features)
    assert segmenter.architecture == "BasicUNet"
    assert segmenter(image).shape == (2, 1, 32, 32)
    assert segmenter.normalize.mean.flatten().tolist() == [0.5]
    more = MonaiNetwork(name="BasicUNet", in_channels=1, num_classes=5, features=features)
    assert more(image).shape == (2, 5, 32, 32)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"name": "BasicUnett"}, "MONAI has no BasicUnett in monai.networks.nets (model.name)"),
        ({"name": "resnet18"}, "MONAI has no resnet18 in monai.networks.nets"),
        ({"name": "BasicUNet", "width": 3}, "BasicUNet has no option width (model.width)"),
        ({"name": "BasicUNet", "spatial_dims": 3}, "spatial_dims is set here"),
        (
            {"name": "DenseNet121", "pretrained": True},
            "DenseNet121 loads no weights here (model.pretrained)",
        ),
        ({"name": "UNet"}, "monai.networks.nets.UNet cannot be built from its arguments"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict, line: str) -> None:
    with pytest.raises(MedvisionError) as error:
        MonaiNetwork(**options)
    assert line in str(error.value)


def test_predictions_have_the_difference_of_two_logits_and_losses_both() -> None:
    network = Normalized(nn.Conv2d(3, 2, 1), in_channels=3)
    image = torch.rand(1, 3, 4, 4)
    both = network(image)
    network.two_become_one = True
    assert both.shape == (1, 2, 4, 4)
    assert torch.equal(network(image), both[:, 1:] - both[:, :1])
    assert torch.allclose(network.normalize(image), image)
