import platform
from collections.abc import Callable

import pytest
import torch
from torch import nn

from medvision.hardware import (
    keep_freed_memory,
    measure_first_layers_in_float32,
    train_slow_depthwise_in_float32,
)
from medvision.models import SimpleCNN, SmpSegmenter, UNet


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # dense
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # depthwise, quick in bfloat16
        nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
    )


def test_only_strided_and_large_depthwise_convolutions_are_changed() -> None:
    assert train_slow_depthwise_in_float32(network()) == 2


def test_they_train_in_float32_and_give_back_what_autocast_would() -> None:
    plain, changed = network(), network()
    train_slow_depthwise_in_float32(changed)
    image = torch.rand(2, 3, 16, 16)
    seen: list[torch.dtype] = []
    inner = changed[3].forward.args[0]

    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return inner(x)

    changed[3].forward = type(changed[3].forward)(changed[3].forward.func, watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, out = plain(image), changed(image)
    assert seen == [torch.float32]
    assert out.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0.05, atol=0.02)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in changed.parameters())


@pytest.mark.parametrize("autocast", [True, False])
def test_without_gradients_or_autocast_nothing_changes(autocast: bool) -> None:
    plain, changed = network(), network()
    train_slow_depthwise_in_float32(changed)
    image = torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), torch.no_grad():
        assert torch.equal(changed(image), plain(image))
    if not autocast:
        assert torch.equal(changed(image), plain(image))


def test_the_tensors_keep_their_names() -> None:
    changed = network()
    train_slow_depthwise_in_float32(changed)
    assert list(changed.state_dict()) == list(network().state_dict())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_freed_blocks_come_back_without_new_pages() -> None:
    import resource

    keep_freed_memory()
    faults = []
    for _ in range(24):  # a hole of the right size is there after a few rounds
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**23)  # 32 MiB, far beyond what malloc keeps by itself
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < 2**23 * 4 / 4096 / 10


@pytest.mark.parametrize(
    ("make", "count"),
    [
        pytest.param(lambda: UNet(base_channels=4), 1, id="unet"),
        pytest.param(lambda: SmpSegmenter(encoder="resnet18"), 1, id="resnet"),
        pytest.param(lambda: SmpSegmenter(encoder="tu-tf_efficientnet_lite0"), 3, id="lite0"),
        pytest.param(lambda: SimpleCNN(image_size=32), 0, id="classifier"),
    ],
)
def test_the_first_layers_of_segmenters_measure_in_float32(
    make: Callable[[], nn.Module], count: int
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    names = list(model.state_dict())
    assert measure_first_layers_in_float32(model) == count
    assert list(model.state_dict()) == names
    seen: list[torch.dtype] = []
    for module in getattr(model, "first_layers", list)():
        module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    image = torch.rand(1, model.in_channels, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        model(image)
    measured, seen[:] = list(seen), []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(image)
    assert measured == [torch.float32] * count
    assert seen[:1] == [torch.bfloat16] * min(count, 1)


def test_masks_come_nearer_to_those_of_float32() -> None:
    torch.manual_seed(0)
    model = UNet(base_channels=8, batch_norm=True).eval()
    image = torch.rand(4, 3, 64, 64)

    def error(exact: torch.Tensor) -> float:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            return float((model(image) - exact).abs().mean())

    with torch.inference_mode():
        exact = model(image)
    before = error(exact)
    measure_first_layers_in_float32(model)
    assert error(exact) < before
    with torch.inference_mode():
        torch.testing.assert_close(model(image), exact, rtol=0, atol=0)
