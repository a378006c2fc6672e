import platform

import pytest
import torch
from torch import nn

from medvision.hardware import keep_freed_memory, train_slow_depthwise_in_float32


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
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**23)  # 32 MiB, far beyond what malloc keeps by itself
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < 2**23 * 4 / 4096 / 10
