from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from medvision.errors import MedvisionError
from medvision.models import SmpSegmenter, count_parameters

SMALL = {
    "DPT": {"encoder": "tu-vit_tiny_patch16_224", "decoder_fusion_channels": 16},
    "PAN": {"encoder": "resnet18"},
}
ARCHITECTURES = sorted(cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values())


OFTEN = ("Unet", "DeepLabV3Plus", "DPT", "PAN")
"""Architectures tested in every suite: skip connections, dilation, and the two with own options."""


@pytest.mark.parametrize(
    "architecture",
    [
        name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
@torch.no_grad()
def test_every_architecture_accepts_any_size(architecture: str) -> None:
    options = SMALL.get(architecture, {"encoder": "mobilenet_v2"})
    model = SmpSegmenter(architecture=architecture, num_classes=3, **options).eval()
    for height, width in [(21, 40), (1, 1), (49, 80)]:
        image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        assert model(image).shape == (1, 3, height, width)


def test_all_architectures_are_tested() -> None:
    assert len(ARCHITECTURES) >= 12
    assert "Unet" in ARCHITECTURES


def test_number_of_parameters_with_the_packaged_encoder() -> None:
    model = SmpSegmenter(encoder="tu-tf_efficientnet_lite0")
    assert count_parameters(model) == 5_198_161


def test_logits_are_those_of_smp_itself() -> None:
    model = SmpSegmenter(encoder="resnet18", num_classes=3).eval()
    plain = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    plain.load_state_dict(model.network.state_dict())
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(model(image), plain((image - 0.5) / 0.5))


def test_options_reach_the_decoder_and_the_encoder_of_timm() -> None:
    model = SmpSegmenter(encoder="resnet18", decoder_channels=[32, 16, 8, 8, 4])
    assert model.network.segmentation_head[0].in_channels == 4
    model = SmpSegmenter(encoder="tu-resnet18", drop_path_rate=0.5)
    assert any("drop_path" in name for name, _ in model.named_modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "unet"}, r"unknown architecture unet \(model.architecture\); .* Unet\?"),
        ({"architecture": "Xyz"}, "choose one of .*DeepLabV3Plus"),
        ({"encoder": "resnet43"}, r"unknown encoder resnet43 \(model.encoder\); did you mean"),
        ({"encoder": "tu-efficientnet_b00"}, r"did you mean tu-efficientnet_b0\?"),
        ({"encoder": 18}, r"unknown encoder 18 \(model.encoder\)"),
        ({"encoder": "tu-resnet18.nobody"}, "cannot be built: Invalid pretrained tag"),
        ({"decoder_chanels": [1]}, r"\(model.decoder_chanels\); did you mean decoder_channels\?"),
        ({"depth_of_dreams": 1}, "has no option depth_of_dreams .*decoder_use_norm"),
        ({"activation": "sigmoid"}, "has no option activation"),
        ({"encoder": "tu-resnet18", "classes": 9}, "has no option classes"),
        ({"encoder": "tu-resnet18", "depth_of_dreams": 1}, "argument 'depth_of_dreams'"),
        ({"encoder_depth": 4}, "cannot be built: .*depth"),
        ({"architecture": "DPT"}, "cannot be built: Only Timm encoders"),
    ],
)
def test_wrong_names_are_refused_with_the_right_ones(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(MedvisionError, match=message) as caught:
        SmpSegmenter(**options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_logits_of_another_size_are_reported() -> None:
    model = SmpSegmenter(architecture="FPN", encoder="resnet18", upsampling=2).eval()
    with pytest.raises(MedvisionError, match=r"\(64, 64\) pixels, got \(32, 32\) \(model.ups"):
        model(torch.zeros(1, 3, 64, 64))


def test_no_request_is_sent_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    SmpSegmenter(encoder="resnet18")
    SmpSegmenter(encoder="tu-tf_efficientnet_lite0", weights="packaged")


def test_one_small_image_is_segmented_by_a_network_with_group_norm() -> None:
    network = SmpSegmenter(
        encoder="resnet18",
        architecture="FPN",
        decoder_pyramid_channels=64,
        decoder_segmentation_channels=32,
    )
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert network.eval()(image).shape == (1, 1, 32, 32)
