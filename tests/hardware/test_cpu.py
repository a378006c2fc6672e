import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.hardware import (
    cpu,
    denormals_as_zero,
    keep_freed_memory,
    measure_first_layers_in_float32,
    round_weights_once,
    train_with_quick_gradients,
)
from medvision.models import SimpleCNN, SmpSegmenter, TimmClassifier, UNet
from medvision.run.training import experiment


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # dense
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # depthwise, quick in bfloat16
        nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
    )


def test_strided_large_depthwise_and_doubling_convolutions_are_replaced() -> None:
    assert train_with_quick_gradients(network()) == 2
    assert train_with_quick_gradients(UNet(base_channels=4)) == 4 + 4  # four joins


def test_every_slow_layer_of_efficientnets_is_replaced() -> None:
    lite0 = TimmClassifier(name="tf_efficientnet_lite0", num_classes=4)  # pads in its forward
    b0 = TimmClassifier(name="efficientnet_b0", num_classes=4)
    assert train_with_quick_gradients(lite0) == 11
    assert train_with_quick_gradients(b0) == 11 + 16  # one squeeze in every block


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(nn.Conv2d(8, 8, 5, padding=2, groups=8), id="bias"),
        pytest.param(nn.Conv2d(8, 16, 5, padding=2, groups=8, bias=False), id="multiplier"),
        pytest.param(
            nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8, bias=False), id="dilation"
        ),
        pytest.param(nn.Conv2d(8, 8, (3, 5), stride=2, groups=8, bias=False), id="oblong"),
        pytest.param(nn.Conv2d(8, 8, 4, stride=2, groups=8, bias=False), id="even"),
        pytest.param(nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False), id="grouped"),
        pytest.param(nn.Conv2d(1, 1, 3, stride=2, bias=False), id="one channel"),
        pytest.param(nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1), id="transposed 4x4"),
        pytest.param(nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), id="transposed in groups"),
    ],
)
def test_unsupported_layers_are_unchanged(layer: nn.Module) -> None:
    assert train_with_quick_gradients(nn.Sequential(layer)) == 0


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_gradients_are_as_close_to_float32_as_those_of_autocast(name: str) -> None:
    torch.manual_seed(0)
    model = TimmClassifier(name=name, num_classes=4).train().to(memory_format=torch.channels_last)
    image = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)

    def gradients(*, autocast: bool) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(model(image).float(), torch.arange(4))
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    state = {name: value.clone() for name, value in model.state_dict().items()}
    exact, theirs = gradients(autocast=False), gradients(autocast=True)
    model.load_state_dict(state)
    train_with_quick_gradients(model)
    ours = gradients(autocast=True)
    assert not torch.equal(ours, theirs)
    assert (ours - exact).norm() < 1.25 * (theirs - exact).norm()


@pytest.mark.parametrize(
    ("make", "calls"),
    [
        (lambda: TimmClassifier(name="tf_efficientnet_lite0"), {"_depthwise": 11}),
        (
            lambda: TimmClassifier(name="efficientnet_b0"),
            {"_depthwise": 11, "_spatial_mean": 16},
        ),
        (lambda: UNet(base_channels=4), {"double_size": 4}),
    ],
)
def test_each_kernel_replaces_the_slow_one(
    make: Callable[[], nn.Module], calls: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()

    def counted(name: str, kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: object) -> Tensor:
            seen[name] += 1
            return kernel(*args)

        return call

    for name in ("_depthwise", "_spatial_mean", "double_size"):
        monkeypatch.setattr(cpu, name, counted(name, getattr(cpu, name)))
    model = make().train()
    train_with_quick_gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.rand(2, 3, 64, 64))
    assert seen == calls


def test_a_unet_learns_the_same_with_and_without_the_kernels() -> None:
    image, mask = torch.rand(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()

    def losses(change: Callable[[nn.Module], int]) -> list[float]:
        torch.manual_seed(0)
        model = UNet(base_channels=8)
        change(model)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        found = []
        for _ in range(8):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.binary_cross_entropy_with_logits(model(image).float(), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    assert losses(train_with_quick_gradients) == pytest.approx(losses(lambda model: 0), rel=0.01)


def test_rounded_weights_predict_the_same_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = UNet(base_channels=8, batch_norm=True).eval()
    measure_first_layers_in_float32(model)
    image = torch.rand(2, 3, 32, 32)

    def logits() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            return model(image)

    expected = logits()
    assert round_weights_once(model) == 22
    assert torch.equal(logits(), expected)
    first, second = model.down[0][0], model.down[0][3]
    assert (first.weight.dtype, second.weight.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("autocast", [True, False])
def test_without_gradients_or_autocast_nothing_changes(autocast: bool) -> None:
    plain, changed = network(), network()
    train_with_quick_gradients(changed)
    image = torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), torch.no_grad():
        assert torch.equal(changed(image), plain(image))
    if not autocast:
        assert torch.equal(changed(image), plain(image))


def test_parameter_names_are_unchanged() -> None:
    changed = network()
    train_with_quick_gradients(changed)
    assert list(changed.state_dict()) == list(network().state_dict())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_freed_blocks_are_reused_without_new_pages() -> None:
    import resource

    keep_freed_memory()
    faults = []
    for _ in range(24):  # a free block of the right size exists after a few rounds
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**23)  # 32 MiB, far more than malloc keeps by default
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < 2**23 * 4 / 4096 / 10


def smallest_product() -> float:
    """Float32 product that is a denormal number, or zero where these are flushed."""
    return float(torch.full((), 1e-30) * torch.full((), 1e-10))


@pytest.mark.parametrize("flushed_before", [False, True])
def test_denormal_numbers_are_zero_within_and_as_before_afterwards(flushed_before: bool) -> None:
    if not torch.set_flush_denormal(flushed_before):
        pytest.skip("this processor does not support it")
    try:
        before = smallest_product()
        assert (before == 0) is flushed_before
        with denormals_as_zero():
            assert smallest_product() == 0
        assert smallest_product() == before
        with pytest.raises(RuntimeError, match="out of memory"), denormals_as_zero():
            raise RuntimeError("out of memory")
        assert smallest_product() == before
    finally:
        torch.set_flush_denormal(False)


def trained_with_dead_units() -> tuple[Tensor, Tensor]:
    """Weights and first moments after 1000 steps of Adam, half of them without a gradient."""
    weight = nn.Parameter(torch.linspace(-0.1, 0.1, 64))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    weight.grad = torch.linspace(-1, 1, 64)
    optimizer.step()
    weight.grad[::2] = 0
    for _ in range(1000):
        optimizer.step()
    return weight.detach(), optimizer.state[weight]["exp_avg"]


def test_moments_of_dead_units_become_zero_and_weights_stay_identical() -> None:
    plain_weights, plain_moments = trained_with_dead_units()
    with denormals_as_zero():
        weights, moments = trained_with_dead_units()
    assert torch.equal(weights, plain_weights)
    dead = plain_moments[::2]
    assert ((dead != 0) & (dead.abs() < torch.finfo(torch.float32).tiny)).all()
    assert torch.count_nonzero(moments[::2]) == 0
    assert torch.equal(moments[1::2], plain_moments[1::2])


def test_threads_started_within_flush_denormal_numbers() -> None:
    program = """
import torch
from medvision.hardware import denormals_as_zero
torch.set_num_threads(2)
with denormals_as_zero():
    print(torch.count_nonzero(torch.full((2**20,), 1e-30) * 1e-10).item())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_numpy_does_not_warn_about_flushed_numbers() -> None:
    program = """
from medvision.hardware import denormals_as_zero
with denormals_as_zero():
    import numpy as np
    print(np.finfo(np.float32).eps == 2**-23, np.finfo(np.float64).eps == 2**-52)
"""
    words = [sys.executable, "-W", "always:The value of the smallest", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_training_flushes_denormal_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Any) -> Any:
        raise MedvisionError(f"product {smallest_product()}", where="data")

    monkeypatch.setattr(experiment, "build_data", read)
    job = {"experiment": "polyp_unet", "folder": cast(Any, None), "started_s": 0.0}
    with pytest.raises(MedvisionError, match=r"product 0\.0"):
        experiment.run_experiment(OmegaConf.create({"data": {}}), **job)
    assert smallest_product() > 0


@pytest.mark.parametrize(
    ("make", "count"),
    [
        pytest.param(lambda: UNet(base_channels=4), 1, id="unet"),
        pytest.param(lambda: SmpSegmenter(encoder="resnet18"), 1, id="resnet"),
        pytest.param(lambda: SmpSegmenter(encoder="tu-tf_efficientnet_lite0"), 3, id="lite0"),
        pytest.param(lambda: SimpleCNN(image_size=32), 0, id="classifier"),
    ],
)
def test_the_first_layers_of_segmenters_compute_in_float32(
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


def test_masks_are_closer_to_those_of_float32() -> None:
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
