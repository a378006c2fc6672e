"""Measure the limits of this machine, and the arithmetic that the networks require.

    python benchmarks/limits.py [--append]

The peak of matrix products (2048 x 2048, best of ten) and of 3x3 convolutions (128 feature maps of
64 pixels, batch 8, forward) in float32 and bfloat16 as PyTorch computes them, which use different
libraries; the bandwidth of memory (one addition in place over 512 MB, read and written), and the
arithmetic of each network from its shapes: convolutions and matrix products, a multiplication and
an addition being two operations. Training counts three times as much: every product has two
gradients (the first layer of a network only one).
"""

import argparse
import time
from collections.abc import Callable

import torch
from harness import append_results, command_line
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from medvision.hardware import keep_freed_memory
from medvision.models import AlexNet, SimpleCNN, TimmClassifier, UNet

SIDE = 2048
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "U-Net, 16 base channels": (lambda: UNet(base_channels=16), 256),
    "U-Net, 64 base channels": (lambda: UNet(base_channels=64), 256),
    "AlexNet": (lambda: AlexNet(num_classes=4), 224),
    "EfficientNet-B0": (lambda: TimmClassifier(name="efficientnet_b0", num_classes=4), 224),
    "EfficientNet-Lite0": (
        lambda: TimmClassifier(name="tf_efficientnet_lite0", num_classes=4),
        224,
    ),
    "simple CNN": (lambda: SimpleCNN(in_channels=3, image_size=600), 600),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--append", action="store_true", help="add the tables to RESULTS.md")
    given = parser.parse_args()
    keep_freed_memory()
    peaks, lines = {}, ["| | |", "|---|---|"]
    for kind in (torch.float32, torch.bfloat16):
        name, found = str(kind).removeprefix("torch."), (matrix_peak(kind), convolution_peak(kind))
        lines.append(f"| matrix products, {name} | {found[0]:.0f} GFLOP/s |")
        lines.append(f"| convolutions, {name} | {found[1]:.0f} GFLOP/s |")
        peaks[kind] = max(found)
    lines += [f"| memory | {bandwidth():.0f} GB/s |", ""]
    at_most = [f"at most, {str(kind).removeprefix('torch.')}" for kind in peaks]
    lines.append(f"| an image | forward | training | {' | '.join(at_most)} (training / forward) |")
    lines.append("|" + "---|" * (3 + len(peaks)))
    for name, (make, size_px) in NETWORKS.items():
        forward = arithmetic(make(), size_px)
        training = 3 * forward
        rates = [
            f"{peak / training:.1f} / {peak / forward:.1f} images/s" for peak in peaks.values()
        ]
        lines.append(
            f"| {name}, {size_px} px | {forward:.2f} GFLOP | {training:.2f} GFLOP |"
            f" {' | '.join(rates)} |"
        )
    print("\n".join(lines))
    if given.append:
        append_results("What the machine can do at most", lines, command=command_line())


def matrix_peak(kind: torch.dtype) -> float:
    """GFLOP/s of the quickest of ten matrix products."""
    left, right = torch.randn(SIDE, SIDE).to(kind), torch.randn(SIDE, SIDE).to(kind)
    return 2 * SIDE**3 / best_s(lambda: left @ right) / 1e9


def convolution_peak(kind: torch.dtype) -> float:
    """GFLOP/s of the quickest of ten 3x3 convolutions of 128 feature maps, channels-last."""
    width, side, batch = 128, 64, 8
    x = torch.randn(batch, width, side, side).to(kind, memory_format=torch.channels_last)
    weight = torch.randn(width, width, 3, 3).to(kind, memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = best_s(lambda: F.conv2d(x, weight, padding=1))
    return 2 * 9 * batch * (width * side) ** 2 / seconds / 1e9


def bandwidth() -> float:
    """GB/s read and written by the quickest of ten additions in place."""
    values = torch.zeros(2**27)
    return 2 * values.numel() * values.element_size() / best_s(lambda: values.add_(1)) / 1e9


def best_s(work: Callable[[], object], times: int = 10) -> float:
    """Seconds of the quickest of some runs, after one that does not count."""
    work()
    found = []
    for _ in range(times):
        started_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - started_s)
    return min(found)


def arithmetic(model: nn.Module, size_px: int) -> float:
    """GFLOP of one image, forward."""
    model.eval()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(torch.rand(1, model.in_channels, size_px, size_px))
    return forward.get_total_flops() / 1e9


if __name__ == "__main__":
    main()
