"""Check that medvision has not become slower: small ratios, each from one run, in 3 minutes.

    python benchmarks/quick.py

Each line compares two ways of the same work that take turns, and exits with 1 where a ratio has
fallen under what it must be. The bounds lie well under what was measured (RESULTS.md), as machines
are noisy: this finds what was lost altogether, such as a setting that is no longer made.
"""

import copy
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from harness import ROOT
from torch import nn
from torch.nn import functional as F

from medvision.data import SegmentationData
from medvision.hardware import (
    choose_plan,
    denormals_as_zero,
    keep_freed_memory,
    round_weights_once,
    train_with_quick_gradients,
)
from medvision.metrics import SegmentationScores
from medvision.models import AlexNet, TimmClassifier, UNet

Work = Callable[[], object]


def main() -> None:
    """Measure, print, and exit with 1 if a ratio is too low."""
    keep_freed_memory()
    started_s, lost = time.perf_counter(), 0
    for name, bound, ratio in (*_of_processes(), *_of_optimizer(), *_of_networks(), *_of_data()):
        lost += ratio < bound
        verdict = "ok" if ratio >= bound else "LOST"
        print(f"{verdict:4}  {ratio:6.2f} (at least {bound:g})  {name}", flush=True)
    print(f"{time.perf_counter() - started_s:.0f} s")
    raise SystemExit(1 if lost else 0)


def times_faster(ours: Work, theirs: Work, *, rounds: int = 5) -> float:
    """Median of seconds of theirs over seconds of ours, after a round that does not count."""
    found = []
    for turn in range(rounds + 1):
        seconds = []
        for work in (ours, theirs):
            started_s = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started_s)
        if turn:
            found.append(seconds[1] / seconds[0])
    return statistics.median(found)


def _of_processes() -> list[tuple[str, float, float]]:
    """Answers that need no torch, in the time of `import hydra`: at most three times."""

    def run(*words: str, code: int = 0) -> None:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True)
        if done.returncode != code:
            raise SystemExit(f"error: {' '.join(words)} ended with {done.returncode}")

    hydra = functools.partial(run, "-c", "import hydra")
    train = functools.partial(run, "train.py")
    wrong = functools.partial(train, "experiment=polyp_unet", "nope=1", code=2)
    return [
        ("train.py --help, of import hydra", 1 / 3, times_faster(lambda: train("--help"), hydra)),
        ("a key that is none, of import hydra", 1 / 3, times_faster(wrong, hydra)),
    ]


def _of_optimizer() -> list[tuple[str, float, float]]:
    """Steps of Adam for weights whose gradients have been zero for long."""
    plain, quick = _dead_steps(), _dead_steps()

    def flushed() -> None:
        with denormals_as_zero():
            quick()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others that exist already do not flush
    ratio = times_faster(flushed, plain)
    torch.set_num_threads(threads)
    return [("Adam steps for dead units", 1.5, ratio)]


def _dead_steps() -> Work:
    weight = nn.Parameter(torch.zeros(30_000))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.Adam([weight], fused=True)
    optimizer.step()
    weight.grad.zero_()
    optimizer.state[weight]["exp_avg"].fill_(torch.finfo(torch.float32).smallest_normal / 2**20)

    def steps() -> None:
        for _ in range(100):
            optimizer.step()

    return steps


def _of_networks() -> list[tuple[str, float, float]]:
    """Choices of the hardware table beside the defaults of PyTorch."""
    plan = choose_plan(
        accelerator="cpu",
        precision="auto",
        memory_format="auto",
        deterministic="auto",
    )
    unet, lite0 = UNet(base_channels=16), TimmClassifier(name="tf_efficientnet_lite0")
    mask = (torch.rand(4, 1, 128, 128) > 0.5).float()
    plain = _training(unet, mask, autocast=False)
    if plan.precision != "bf16-mixed":
        print("this processor multiplies no bfloat16: ratios of networks are left out")
        return []
    found = [("U-Net trains as chosen", 1.4, times_faster(_quickly(unet, mask), plain))]
    label = torch.zeros(8, 1)
    slow = _quickly(lite0, label)
    quick = copy.deepcopy(lite0)
    train_with_quick_gradients(quick)
    found.append(("EfficientNet-Lite0 trains", 1.15, times_faster(_quickly(quick, label), slow)))
    frozen = copy.deepcopy(quick)
    for stage in frozen.first_stages(2):
        stage.requires_grad_(False).eval()
    ratio = times_faster(_quickly(frozen, label), _quickly(quick, label))
    found.append(("EfficientNet-Lite0 trains with two frozen stages", 1.1, ratio))
    alexnet = AlexNet(num_classes=4).eval().to(memory_format=torch.channels_last)
    rounded = copy.deepcopy(alexnet)
    round_weights_once(rounded)
    ratio = times_faster(_predicting(rounded), _predicting(alexnet))
    found.append(("AlexNet predicts, weights rounded once", 1.05, ratio))
    scores = SegmentationScores(class_names=["background", "polyp"])
    logits, truth = torch.randn(4, 1, 128, 128), mask[:, 0].byte()
    step = _quickly(unet, mask)
    ratio = times_faster(lambda: scores.update(logits, truth), step)
    return [*found, ("a step of U-Net, of its scores", 25, ratio)]


def _quickly(model: nn.Module, target: torch.Tensor) -> Work:
    copied = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return _training(copied, target, autocast=True)


def _training(model: nn.Module, target: torch.Tensor, *, autocast: bool) -> Work:
    image = torch.randint(0, 256, (len(target), 128, 128, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=autocast)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = model(image)
        F.binary_cross_entropy_with_logits(logits.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _predicting(model: nn.Module) -> Work:
    image = torch.zeros(4, 224, 224, 3, dtype=torch.uint8).permute(0, 3, 1, 2)

    def predict() -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            model(image)

    return predict


def _of_data() -> list[tuple[str, float, float]]:
    """Large images from the second epoch on, and of a reduced size, beside decoding them all."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDVISION_CACHE_DIR"] = str(Path(scratch, "cache"))
        root = Path(scratch, "data")
        _draw(root, count=12)
        kept, decoded = _epoch(root, decoded_gb=1), _epoch(root, decoded_gb=0)
        reduced = _epoch(root, decoded_gb=0, reduced_decoding="true")
        kept()
        return [
            ("large images from the second epoch on", 4, times_faster(kept, decoded)),
            ("large images decoded at a reduced size", 1.1, times_faster(reduced, decoded)),
        ]


def _draw(root: Path, *, count: int) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (135, 240, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (1920, 1080), interpolation=cv2.INTER_CUBIC)
        mask = np.zeros((1080, 1920), np.uint8)
        cv2.circle(mask, (900 + 9 * number, 500), 200, 255, -1)
        cv2.imwrite(str(root / f"images/{number}.jpg"), image)
        cv2.imwrite(str(root / f"masks/{number}.png"), mask)


def _epoch(root: Path, **options: Any) -> Work:
    from hydra import compose, initialize_config_dir

    from medvision.run.config.store import CONF
    from medvision.run.training.build import build

    overrides = [f"data.{name}={value}" for name, value in options.items()]
    with initialize_config_dir(str(CONF), version_base=None):
        named = ["experiment=polyp_unet", f"data.root={root}", "data.num_workers=0", *overrides]
        cfg = compose("train", named)
    data: SegmentationData = build(cfg.data)
    data.prepare()

    def epoch() -> None:
        for _ in data.train_dataloader():
            pass

    return epoch


if __name__ == "__main__":
    main()
