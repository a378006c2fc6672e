"""Contract of all classifiers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy
from medvision.models import AlexNet, SimpleCNN, TimmClassifier

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "simple_cnn": lambda **kwargs: SimpleCNN(
        **{"in_channels": 3, "image_size": 32, "base_channels": 8, **kwargs}
    ),
    "alexnet": AlexNet,
    "alexnet_2012": partial(AlexNet, version=2012),
    # timm starts the end of each residual branch at 0, and its gradient with it
    "resnet18": lambda **kwargs: TimmClassifier(name="resnet18", zero_init_last=False, **kwargs),
    "lite0": lambda **kwargs: TimmClassifier(name="tf_efficientnet_lite0", **kwargs),
}
Make = Callable[..., nn.Module]


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow) if "alexnet" in name else name
        for name in CLASSIFIERS
    ],
    scope="module",
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@lru_cache(maxsize=2)
def shared(name: str, in_channels: int = 3, num_classes: int = 2) -> nn.Module:
    """Network shared by several tests, because drawing AlexNet's 57 M weights is slow."""
    torch.manual_seed(0)
    return CLASSIFIERS[name](in_channels=in_channels, num_classes=num_classes).eval()


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@torch.no_grad()
def logits_of(model: nn.Module, image: Tensor) -> Tensor:
    return model.eval()(image)


@pytest.mark.parametrize(("in_channels", "num_classes", "num_logits"), [(1, 2, 1), (3, 4, 4)])
def test_logits_are_one_for_two_classes_and_k_for_more(
    name: str, in_channels: int, num_classes: int, num_logits: int
) -> None:
    model = shared(name, in_channels, num_classes)
    logits = logits_of(model, pixels(2, in_channels, 64, 80))
    assert logits.shape == (2, num_logits)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert (model.in_channels, model.num_classes) == (in_channels, num_classes)


def test_images_of_any_size_are_accepted(name: str) -> None:
    for height, width in [(33, 47), (31, 64), (5, 1), (1, 1), (150, 150)]:
        logits = logits_of(shared(name), pixels(1, 3, height, width))
        assert logits.shape == (1, 1)
        assert logits.isfinite().all()


def test_images_of_a_batch_do_not_mix_in_eval(name: str) -> None:
    batch = pixels(3, 3, 64, 64)
    alone = torch.cat([logits_of(shared(name), image[None]) for image in batch])
    torch.testing.assert_close(logits_of(shared(name), batch), alone, rtol=1e-4, atol=1e-4)


def test_uint8_equals_float_divided_by_255(name: str) -> None:
    image = pixels(1, 3, 64, 64)
    assert torch.equal(logits_of(shared(name), image), logits_of(shared(name), image.float() / 255))


def test_channels_last_gives_the_same_logits(name: str) -> None:
    model, image = shared(name), pixels(2, 3, 67, 64)
    expected = logits_of(model, image)
    model.to(memory_format=torch.channels_last)
    last = logits_of(model, image.to(memory_format=torch.channels_last))
    model.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_autocast_gives_nearly_the_same_logits(name: str) -> None:
    model, image = shared(name), pixels(8, 3, 64, 64)
    image[4:] //= 2  # noise images are all similar
    expected = logits_of(model, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = logits_of(model, image).float()
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


def test_normalisation_is_the_first_layer(name: str) -> None:
    model = shared(name)
    assert next(child for child, _ in model.named_children()) == "normalize"
    assert model.normalize.mean.shape == model.normalize.std.shape == (1, 3, 1, 1)


def test_a_wrong_number_of_channels_is_named(name: str) -> None:
    with pytest.raises(MedvisionError, match=r"\(N, 3, H, W\), got \(1, 1, 64, 64\)"):
        shared(name)(pixels(1, 1, 64, 64))


def test_head_and_backbone_make_up_the_network(name: str) -> None:
    model = shared(name)
    head = {p for module in model.head_modules() for p in module.parameters()}
    assert len(head) == 2  # weight and bias of the last layer
    assert {len(p) for p in head} == {1}  # of one logit
    assert head < set(model.parameters())


def test_feature_maps_are_spatial_and_give_the_same_logits(name: str) -> None:
    model, image = shared(name), pixels(2, 3, 96, 128)
    with torch.no_grad():
        maps = model.feature_maps(image)
        logits = model.classify(maps.clone())
    assert maps.ndim == 4
    assert len(maps) == 2
    assert min(maps.shape[-2:]) > 1
    torch.testing.assert_close(logits, logits_of(model, image), rtol=0, atol=1e-6)


def test_a_transformer_has_no_feature_maps() -> None:
    model = TimmClassifier(name="test_vit").eval()
    message = (
        r"test_vit has no image feature maps \(model.name\); "
        r"heat maps need a convolutional network, such as resnet18"
    )
    with pytest.raises(MedvisionError, match=message), torch.no_grad():
        model.feature_maps(pixels(1, 3, 160, 160))


def test_nothing_was_loaded_and_nothing_is_reported(name: str) -> None:
    model = shared(name)
    assert model.architecture
    assert (model.loaded_weights.source, len(model.loaded_weights.taken)) == ("none", 0)
    assert model.loaded_weights.report() == []


def test_gradient_reaches_every_parameter(name: str) -> None:
    model = CLASSIFIERS[name](num_classes=4).train()
    target = torch.tensor([0, 1, 2, 3])
    CrossEntropy(num_classes=4)(model(pixels(4, 3, 64, 64)), target).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


def test_state_dict_round_trip_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    image = pixels(1, 3, 64, 64)
    first, second = CLASSIFIERS[name](), CLASSIFIERS[name]()
    first.train()(pixels(4, 3, 64, 64))  # changes the statistics of batch norm
    first.normalize.mean.fill_(0.3)  # mean and std are stored with the weights
    assert not torch.equal(logits_of(first, image), logits_of(second, image))

    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(logits_of(first, image), logits_of(second, image))


def test_same_seed_gives_the_same_network(name: str) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(CLASSIFIERS[name]())
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_one_class_is_refused(name: str) -> None:
    with pytest.raises(MedvisionError, match=r"at least 2 classes, got 1 \(model.num_classes\)"):
        CLASSIFIERS[name](num_classes=1)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_outside_its_range_is_named(name: str, dropout: float) -> None:
    with pytest.raises(MedvisionError, match=rf"\[0, 1\), got {dropout} \(model.dropout\)"):
        CLASSIFIERS[name](dropout=dropout)
