"""Measure the cost of the framework: `train.py` beside a bare loop with the same settings.

    python benchmarks/framework.py [KVASIR] [--base 16] [--steps 30] [--runs 5] [--append]
    python benchmarks/framework.py KVASIR --loggers 9 --steps 50

The bare loop has the same data, loader, network, precision, memory format and optimizer, and no
Lightning, score, log or checkpoint: zero_grad, forward, loss, backward, step. Both report their
training images per second without the first two steps. Beside it what the scores of an epoch cost:
the update of a batch as a share of its step, and the end of the epoch as a share of 100 steps.

With ``--loggers`` one training of that many epochs, in which three epochs take turns: without a
logger, with the scalars of TensorBoard, and with its pictures of validation too.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import (
    HERE,
    ROOT,
    append_results,
    command_line,
    median_table,
    ratios,
    run_json,
    spread,
    take_turns,
)
from phantoms import write_polyps
from pytorch_lightning import Callback, LightningModule, Trainer
from training import medvision_run

from medvision.callbacks import TrackedPictures

BASE = "train.py"
DRAWN_EVERY = 10
"""Epochs from one picture to the next in ``logger=tensorboard``."""


class Turns(Callback):
    """Take turns of epochs without logger, with scalars, and with pictures too.

    Keeps the processor time of each epoch. The first turn warms up.
    """

    KINDS = ("no logger", "scalars", "scalars and pictures")

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {kind: [] for kind in self.KINDS}
        self.loggers: list[Any] | None = None
        self.kind: str | None = None
        self.start_s = 0.0

    def on_train_epoch_start(self, trainer: Trainer, *_: LightningModule) -> None:
        self._end()
        self.loggers = trainer.loggers if self.loggers is None else self.loggers
        turn, place = divmod(trainer.current_epoch, len(self.KINDS))
        trainer.loggers = self.loggers if place else []
        (pictures,) = (c for c in trainer.callbacks if isinstance(c, TrackedPictures))
        pictures.every_n_epochs = 1 if place == 2 else 10**6
        self.kind = self.KINDS[place] if turn else None
        self.start_s = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        self._end()
        Path("turns.json").write_text(json.dumps(self.seconds))

    def _end(self) -> None:
        if self.kind is not None:
            self.seconds[self.kind].append(time.process_time() - self.start_s)


def cost_of_loggers(overrides: list[str], *, epochs: int, steps: int) -> list[str]:
    """Train with `Turns`, and say what a logger adds to the processor time of an epoch."""
    options = ["data.num_workers=0", f"trainer.max_epochs={epochs}", "trainer.limit_test_batches=1"]
    options += [f"trainer.limit_train_batches={steps}", "+callbacks.turns._target_=framework.Turns"]
    command = [sys.executable, str(ROOT / "train.py"), *overrides, *options]
    path = f"{HERE}:{os.environ.get('PYTHONPATH', '')}"
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run(command, cwd=scratch, env=environment, check=True)
        found = json.loads(Path(scratch, "turns.json").read_text())
    lines = ["| epochs | processor time of each, seconds |", "|---|---|"]
    lines += [f"| {kind} | {spread(found[kind])} |" for kind in Turns.KINDS]
    without, scalars, pictures = (statistics.median(found[kind]) for kind in Turns.KINDS)
    share = 100 * (scalars - without + (pictures - scalars) / DRAWN_EVERY) / without
    lines += [
        "",
        f"Scalars in every epoch and pictures in every {DRAWN_EVERY}th, as by default, take"
        f" {share:.2f} % of an epoch of {steps} steps.",
    ]
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="root of Kvasir-SEG; phantoms")
    parser.add_argument("--base", type=int, default=16, help="feature maps of the first level")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    parser.add_argument("--loggers", type=int, metavar="EPOCHS", help="cost of loggers instead")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    overrides = ["experiment=polyp_unet", f"model.base_channels={given.base}", "audit=skip"]
    overrides += ["data.batch_size=8"]
    if given.alone:
        print(json.dumps(bare_loop([*overrides, f"data.root={given.data}"], given.steps)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDVISION_CACHE_DIR"] = str(Path(scratch, "cache"))
        data = given.data or write_polyps(Path(scratch, "phantoms"))
        overrides += [f"data.root={data.resolve()}"]
        if given.loggers:
            found = cost_of_loggers(overrides, epochs=given.loggers, steps=given.steps)
            print("\n".join(found))
            if given.append:
                title = f"What a logger costs: U-Net, {given.base} base channels, 256 px, batch 8"
                append_results(title, found, command=command_line())
            return
        alone = [sys.executable, __file__, data.resolve(), "--alone"]
        alone += ["--base", str(given.base), "--steps", str(given.steps)]
        through = functools.partial(medvision_run, Path(scratch), overrides, given.steps)
        candidates = {"bare loop": lambda: run_json(alone), BASE: lambda: through()[0]}
        results = take_turns(candidates, runs=given.runs)
    lines = median_table(results, base="bare loop", figures=["train_images_per_s"])
    slower = ratios(results, BASE, base="bare loop", figure="train_images_per_s")
    bare = results["bare loop"]
    more = 100 / statistics.median(slower) - 100
    update, compute = spread(bare["update_percent"]), spread(bare["compute_percent"])
    lines += [
        "",
        f"A step costs {more:.1f} % more than that of the bare loop. Of a step the scores take"
        f" {update} %, and their end of an epoch takes {compute} % of 100 steps.",
    ]
    print("\n".join(lines))
    if given.append:
        title = f"What the framework costs: U-Net, {given.base} base channels, 256 px, batch 8"
        append_results(title, lines, command=command_line())


def bare_loop(overrides: list[str], steps: int) -> dict[str, float]:
    """Train for some steps with what `train.py` would train with."""
    import torch
    from hydra import compose, initialize_config_dir
    from torch.nn import functional as F

    from medvision.hardware import choose_plan, keep_freed_memory, train_with_quick_gradients
    from medvision.metrics import SegmentationScores
    from medvision.run.config.compatibility import fill_in
    from medvision.run.config.store import CONF
    from medvision.run.training.build import build

    keep_freed_memory()
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("train", overrides)
    data = build(cfg.data)
    data.prepare()
    fill_in(cfg, data)
    torch.manual_seed(0)
    model = build(cfg.model).train()
    plan = choose_plan(
        accelerator="auto",
        precision="auto",
        memory_format="auto",
        deterministic="auto",
    )
    train_with_quick_gradients(model)
    model.to(memory_format=torch.channels_last)
    optimizer = build(cfg.optimizer)(model.parameters(), fused=plan.fused_optimizer)
    scores = SegmentationScores(class_names=data.class_names)
    enabled = plan.precision == "bf16-mixed"
    times, updates, last_s, batches = [], [], time.perf_counter(), iter(data.train_dataloader())
    for _ in range(steps):
        batch = next(batches)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits = model(batch["image"])
        target = batch["target"][:, None].float()
        F.binary_cross_entropy_with_logits(logits.float(), target).backward()
        optimizer.step()
        now_s = time.perf_counter()
        times.append(now_s - last_s)
        scores.update(logits.detach(), batch["target"])
        last_s = time.perf_counter()
        updates.append(last_s - now_s)
    scores.compute()
    step_s, computed_s = statistics.median(times[2:]), time.perf_counter() - last_s
    return {
        "train_images_per_s": 8 * len(times[2:]) / sum(times[2:]),
        "update_percent": 100 * statistics.median(updates[2:]) / step_s,
        "compute_percent": computed_s / step_s,
    }


if __name__ == "__main__":
    main()
