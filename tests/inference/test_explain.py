from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.hardware import round_weights_once
from medvision.inference.explain import explain
from medvision.models import AlexNet, SimpleCNN, TimmClassifier
from medvision.models.base import pad_to_multiple

CELL_PX = 8


class Blocks(nn.Module):
    """Brightness and darkness of 8x8 cells; logits are their weighted means."""

    smallest_px = 32

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.cells = nn.Conv2d(1, 2, CELL_PX, stride=CELL_PX)
        self.head = nn.Linear(2, len(weight), bias=False)
        with torch.no_grad():
            self.cells.weight[0] = 1 / CELL_PX**2
            self.cells.weight[1] = -1 / CELL_PX**2
            self.cells.bias.copy_(torch.tensor([0.0, 1.0]))
            self.head.weight.copy_(torch.tensor(weight))

    def feature_maps(self, image: Tensor) -> Tensor:
        return self.cells(pad_to_multiple(image, 1, at_least=self.smallest_px))

    def classify(self, maps: Tensor) -> Tensor:
        return self.head(maps.relu_().mean(dim=(2, 3)))  # in place, as networks do


def blob(row: int, column: int, *, size: int = 32) -> np.ndarray:
    """A dark image (1, S, S, 1) with one bright cell."""
    image = np.full((1, size, size, 1), 51, np.uint8)
    image[
        :,
        CELL_PX * row : CELL_PX * (row + 1),
        CELL_PX * column : CELL_PX * (column + 1),
    ] = 204
    return image


def stretch(values: np.ndarray) -> np.ndarray:
    values = values - values.min()
    return values / max(values.max(), 1e-12)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def by_hand(
    model: nn.Module, layer: nn.Module, image: np.ndarray, score: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Grad-CAM of one image by its definition, differentiating the whole network."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: object, maps: Tensor) -> None:
        maps.retain_grad()
        kept.append(maps)

    handle = layer.register_forward_hook(keep)
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2)
    score(model(pixels)[0]).backward()
    handle.remove()
    model.zero_grad()
    (maps,) = kept
    weight = maps.grad.mean(dim=(2, 3), keepdim=True)
    heat = (weight * maps).sum(dim=1, keepdim=True).relu().detach()
    heat = F.interpolate(heat, size=image.shape[1:3], mode="bilinear")
    return stretch(heat[0, 0].numpy())


CLASSIFIERS: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "simple_cnn": (
        lambda k: SimpleCNN(in_channels=3, num_classes=k, image_size=64, base_channels=4),
        "network.features.13",
    ),
    "alexnet": (lambda k: AlexNet(num_classes=k), "network.features.11"),
    "resnet18": (lambda k: TimmClassifier(name="resnet18", num_classes=k), "network.layer4"),
    "lite0": (
        lambda k: TimmClassifier(name="tf_efficientnet_lite0", num_classes=k),
        "network.bn2",
    ),
}


SLOW = pytest.mark.slow


@lru_cache(maxsize=1)
def built(name: str, num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return CLASSIFIERS[name][0](num_classes).eval()


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [
        pytest.param(
            name,
            num_classes,
            marks=[] if name == "simple_cnn" or (name, num_classes) == ("resnet18", 4) else SLOW,
        )
        for name in CLASSIFIERS
        for num_classes in (2, 4)
    ],
)
def test_maps_match_the_definition_for_the_last_spatial_layer(name: str, num_classes: int) -> None:
    # In float64, because the maps of an untrained network nearly cancel.
    model, images = built(name, num_classes).double(), noise(2, 96, 96, 3)
    images[0, :48] //= 4
    layer = model.get_submodule(CLASSIFIERS[name][1])
    classes = [1, 0] if num_classes == 2 else [3, 1]
    scores: list[Callable[[Tensor], Tensor]] = [lambda y: y[0], lambda y: -y[0]]
    if num_classes > 2:
        scores = [lambda y: y[3], lambda y: y[1]]
    heat = explain(model, images, classes, num_classes=num_classes)
    assert heat.shape == (2, 96, 96)
    assert heat.dtype == np.float32
    for row, score in enumerate(scores):
        expected = by_hand(model, layer, images[row : row + 1], score)
        np.testing.assert_allclose(heat[row], expected, atol=1e-5)


def test_the_heat_map_is_high_at_the_evidence() -> None:
    model = Blocks([[2.0, -1.0]])
    (heat,) = explain(model, blob(1, 2), [1], num_classes=2)
    # Brightness 0.8 in the cell and 0.2 around: 2 * 0.8 - 0.2 = 1.4 against 2 * 0.2 - 0.8 < 0.
    cells = np.zeros((4, 4), np.float32)
    cells[1, 2] = 1
    expected = cv2.resize(cells, (32, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(heat, stretch(expected), atol=1e-5)
    assert np.unravel_index(heat.argmax(), heat.shape)[0] in range(8, 16)
    assert np.unravel_index(heat.argmax(), heat.shape)[1] in range(16, 24)


def test_class_0_of_two_is_explained_by_the_negated_logit() -> None:
    image = blob(3, 0)
    (heat,) = explain(Blocks([[2.0, -1.0]]), image, [0], num_classes=2)
    (same,) = explain(Blocks([[-2.0, 1.0]]), image, [1], num_classes=2)
    np.testing.assert_array_equal(heat, same)
    assert heat[31, 0] == 0  # the bright cell is evidence for class 1
    assert heat[0, 31] == pytest.approx(1, abs=1e-6)


def test_each_image_has_its_own_class_and_its_own_map() -> None:
    model = Blocks([[1.0, -1.0], [-1.0, 1.0], [1.0, 0.0]])
    images = np.concatenate([blob(0, 0), blob(3, 3), blob(1, 1)])
    heat = explain(model, images, [0, 1, 2], num_classes=3)
    for row in range(3):
        alone = explain(model, images[row : row + 1], [row], num_classes=3)
        np.testing.assert_allclose(heat[row], alone[0], atol=1e-6)
    assert heat[0, 0, 0] == pytest.approx(1, abs=1e-6)
    assert heat[1, 31, 31] == 0


@pytest.mark.parametrize("weight", [[[-1.0, -1.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
def test_a_constant_map_is_zero(weight: list[list[float]]) -> None:
    heat = explain(Blocks(weight), blob(1, 1) * 0 + 80, [1], num_classes=2)
    assert (heat == 0).all()


def test_the_map_of_a_small_image_covers_the_image_and_not_its_padding() -> None:
    small = blob(1, 1, size=20)
    padded = np.pad(small, ((0, 0), (0, 12), (0, 12), (0, 0)), mode="edge")
    (heat,) = explain(Blocks([[2.0, -1.0]]), small, [1], num_classes=2)
    (whole,) = explain(Blocks([[2.0, -1.0]]), padded, [1], num_classes=2)
    assert heat.shape == (20, 20)
    np.testing.assert_array_equal(heat, whole[:20, :20])


def test_inference_mode_and_autocast_do_not_change_the_maps() -> None:
    model, image = Blocks([[2.0, -1.0]]), blob(1, 2)
    expected = explain(model, image, [1], num_classes=2)
    with torch.inference_mode():
        np.testing.assert_array_equal(explain(model, image, [1], num_classes=2), expected)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(explain(model, image, [1], num_classes=2), expected)


def test_the_model_is_unchanged() -> None:
    model = CLASSIFIERS["resnet18"][0](2).train()
    model.network.layer1.eval()
    model.network.conv1.requires_grad_(False)
    model.network.fc.weight.grad = torch.full_like(model.network.fc.weight, 7)
    modes = [module.training for module in model.modules()]
    learned = [parameter.requires_grad for parameter in model.parameters()]
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, noise(2, 64, 64, 3), [0, 1], num_classes=2)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learned
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    gradients = {name for name, p in model.named_parameters() if p.grad is not None}
    assert gradients == {"network.fc.weight"}
    assert (model.network.fc.weight.grad == 7).all()
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


def test_the_model_is_unchanged_after_an_error() -> None:
    model = Blocks([[1.0, 1.0]]).train()
    with pytest.raises(RuntimeError, match="channels"):
        explain(model, noise(1, 32, 32, 3), [1], num_classes=2)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_images_have_no_maps() -> None:
    heat = explain(Blocks([[1.0, 1.0]]), np.zeros((0, 32, 32, 1), np.uint8), [], num_classes=2)
    assert heat.shape == (0, 32, 32)


def test_a_missing_grad_cam_is_reported_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(MedvisionError, match=r"heat maps need the package grad-cam: ") as caught:
        explain(Blocks([[1.0, 1.0]]), blob(0, 0), [1], num_classes=2)
    assert str(caught.value).endswith(
        "; run: pip install -e '.[explain]' (in the medvision checkout)"
    )


def test_a_network_without_feature_maps_is_named() -> None:
    message = r"Conv2d has no image feature maps \(model\); heat maps need a convolutional"
    with pytest.raises(MedvisionError, match=message):
        explain(nn.Conv2d(1, 2, 3), blob(0, 0), [1], num_classes=2)


def test_a_transformer_is_refused_because_heat_maps_need_convolutions() -> None:
    with pytest.raises(MedvisionError, match="heat maps need a convolutional network, such as"):
        explain(TimmClassifier(name="test_vit"), noise(1, 160, 160, 3), [1], num_classes=2)


@pytest.mark.parametrize("classes", [[2], [-1], [0, 1], []])
def test_invalid_classes_are_refused(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected 1 classes in \[0, 2\)"):
        explain(Blocks([[1.0, 1.0]]), blob(0, 0), classes, num_classes=2)


def test_weights_in_bfloat16_are_explained_in_float32_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = SimpleCNN(num_classes=3, image_size=32, base_channels=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())  # no rounding is left
    expected = explain(model, noise(2, 32, 32, 1), [0, 2], num_classes=3)
    rounded = round_weights_once(model)
    assert rounded > 0
    assert np.array_equal(explain(model, noise(2, 32, 32, 1), [0, 2], num_classes=3), expected)
    kinds = {parameter.dtype for parameter in model.parameters()}
    assert torch.bfloat16 in kinds
