"""Contract of all segmentation networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy
from medvision.models import SmpSegmenter, UNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": lambda **kwargs: UNet(base_channels=4, **kwargs),
    "unet_batch_norm": lambda **kwargs: UNet(base_channels=4, batch_norm=True, **kwargs),
    "smp_unet_resnet18": lambda **kwargs: SmpSegmenter(encoder="resnet18", **kwargs),
    "smp_fpn_lite0": lambda **kwargs: SmpSegmenter(
        architecture="FPN", encoder="tu-tf_efficientnet_lite0", **kwargs
    ),
}
Make = Callable[..., nn.Module]


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name == "smp_unet_resnet18" else name
        for name in NETWORKS
    ]
)
def make(request: pytest.FixtureRequest) -> Make:
    return NETWORKS[request.param]


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@torch.no_grad()
def logits_of(model: nn.Module, image: Tensor) -> Tensor:
    return model.eval()(image)


@pytest.mark.parametrize(("num_classes", "num_logits"), [(2, 1), (4, 4)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_logits_have_one_channel_for_two_classes_and_k_for_more(
    make: Make, in_channels: int, num_classes: int, num_logits: int
) -> None:
    model = make(in_channels=in_channels, num_classes=num_classes)
    logits = logits_of(model, pixels(2, in_channels, 32, 64))
    assert logits.shape == (2, num_logits, 32, 64)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert (model.in_channels, model.num_classes) == (in_channels, num_classes)


def test_logits_have_the_size_of_any_image(make: Make) -> None:
    model = make()
    for height, width in [(33, 47), (31, 64), (5, 1), (1, 1), (70, 32)]:
        assert logits_of(model, pixels(1, 3, height, width)).shape == (1, 1, height, width)


def test_gradient_reaches_every_parameter(make: Make) -> None:
    model = make(num_classes=4).train()
    target = torch.randint(0, 4, (2, 64, 64))
    CrossEntropy(num_classes=4)(model(pixels(2, 3, 64, 64)), target).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_images_of_a_batch_do_not_mix_in_eval(make: Make) -> None:
    model, batch = make(), pixels(3, 3, 32, 32)
    alone = torch.cat([logits_of(model, image[None]) for image in batch])
    torch.testing.assert_close(logits_of(model, batch), alone, rtol=1e-4, atol=1e-4)


def test_uint8_equals_float_divided_by_255(make: Make) -> None:
    model, image = make(), pixels(1, 3, 32, 32)
    assert torch.equal(logits_of(model, image), logits_of(model, image.float() / 255))


def test_state_dict_round_trip_gives_the_same_logits(make: Make, tmp_path: Path) -> None:
    image = pixels(1, 3, 32, 32)
    first, second = make(), make()
    first.train()(pixels(4, 3, 64, 64))  # changes the statistics of batch norm
    first.normalize.mean.fill_(0.3)  # mean and std are stored with the weights
    assert not torch.equal(logits_of(first, image), logits_of(second, image))

    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(logits_of(first, image), logits_of(second, image))


def test_channels_last_gives_the_same_logits(make: Make) -> None:
    model, image = make(), pixels(2, 3, 37, 64)
    expected = logits_of(model, image)
    model.to(memory_format=torch.channels_last)
    last = logits_of(model, image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_autocast_gives_nearly_the_same_logits(make: Make) -> None:
    model, image = make(), pixels(2, 3, 64, 64)
    expected = logits_of(model, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = logits_of(model, image).float()
    error = (logits - expected).pow(2).mean().sqrt() / expected.std()
    assert error < 0.05


def test_same_seed_gives_the_same_network(make: Make) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(make())
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_normalisation_is_the_first_layer(make: Make) -> None:
    model = make(in_channels=1)
    assert next(name for name, _ in model.named_children()) == "normalize"
    assert model.normalize.mean.shape == model.normalize.std.shape == (1, 1, 1, 1)


def test_a_wrong_number_of_channels_is_named(make: Make) -> None:
    with pytest.raises(MedvisionError, match=r"\(N, 3, H, W\), got \(1, 1, 32, 32\)"):
        make()(pixels(1, 1, 32, 32))


def test_one_class_is_refused(make: Make) -> None:
    with pytest.raises(MedvisionError, match=r"at least 2 classes, got 1 \(model.num_classes\)"):
        make(num_classes=1)
