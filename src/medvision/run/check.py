"""Refuse impossible values before anything heavy is imported."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medvision.data.catalog import find, needs_account
from medvision.run.messages import nearest
from medvision.types import MedvisionError

Rule = tuple[Callable[[Any], bool], str]

PRECISIONS = ("auto", "32", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
EXTRAS = {"WandbLogger": ("wandb", "wandb"), "MLFlowLogger": ("mlflow", "mlflow")}


def _integer(low: int, high: int | None = None) -> Rule:
    words = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    return lambda v: type(v) is int and low <= v and (high is None or v <= high), words


def _number(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    def holds(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return (low < value if above else low <= value) and value < high

    words = f"a number {'above' if above else 'of at least'} {low:g}"
    return holds, words if high == float("inf") else f"{words} and below {high:g}"


def _one_of(*values: Any) -> Rule:
    return lambda v: str(v) in map(str, values), f"one of {', '.join(map(str, values))}"


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


def _threshold() -> Rule:
    inside, words = _number(0, 1, above=True)
    return lambda v: v == "validation" or inside(v), f"{words}, or validation"


_SHARE_OR_COUNT: Rule = (
    lambda v: v is None or (type(v) is int and v >= 0) or (type(v) is float and 0 <= v <= 1),
    "a count of batches, or a share from 0.0 to 1.0",
)

RULES: dict[str, Rule] = {
    "seed": _integer(0, 2**32 - 1),
    "checkpoint.mode": _one_of("max", "min"),
    "data.image_size": _integer(16, 8192),
    "data.batch_size": _integer(1),
    "data.num_workers": _integer(0),
    "data.num_images": _integer(3),
    "data.in_channels": _one_of(1, 3),
    "data.num_classes": _or_null(_integer(2, 255)),
    "data.phantom": _one_of("chest", "brain"),
    "data.protocol": _one_of("official", "merged", "grouped", "kfold"),
    "data.fold": _integer(0),
    "data.folds": _integer(2),
    "data.sampler": _one_of("shuffle", "balanced"),
    "data.val_fraction": _number(0, 1),
    "data.test_fraction": _number(0, 1),
    "data.split_seed": _integer(0),
    "data.on_error": _one_of("fail", "skip"),
    "model.base_channels": _integer(1),
    "model.dropout": _number(0, 1),
    "loss.label_smoothing": _number(0, 1),
    "task.threshold": _threshold(),
    "task.backbone_lr_factor": _number(0),
    "task.mixing.mixup_alpha": _number(0),
    "task.mixing.cutmix_alpha": _number(0),
    "optimizer.lr": _number(0, above=True),
    "optimizer.weight_decay": _number(0),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu", "cuda", "tpu"),
    "trainer.max_epochs": _integer(1),
    "trainer.precision": _one_of(*PRECISIONS),
    "trainer.memory_format": _one_of("auto", "channels_last", "contiguous"),
    "trainer.deterministic": _one_of("auto", True, False, "warn"),
    "trainer.accumulate_grad_batches": _integer(1),
    "trainer.gradient_clip_val": _or_null(_number(0, above=True)),
    "trainer.limit_train_batches": _SHARE_OR_COUNT,
    "trainer.limit_val_batches": _SHARE_OR_COUNT,
    "trainer.limit_test_batches": _SHARE_OR_COUNT,
}


def check_config(cfg: DictConfig) -> None:
    """Check every value that can be judged without the data and without torch.

    Raises:
        MedvisionError: If a value is of the wrong type or out of range, a path is missing, a
            test metric would choose the checkpoint, or a logger's package is not installed.
    """
    for key, (holds, expected) in RULES.items():
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is not _ABSENT and not holds(value):
            raise MedvisionError(f"expected {expected}, got {value}", where=key, hint="change it")
    _check_paths(cfg)
    _check_monitor(str(cfg.checkpoint.monitor))
    _check_logger(str(OmegaConf.select(cfg, "logger._target_")))


_ABSENT = object()


def _check_paths(cfg: DictConfig) -> None:
    root, name = OmegaConf.select(cfg, "data.root"), OmegaConf.select(cfg, "data.download")
    public = None if name is None else find(str(name), where="data.download")
    if root is not None and not Path(str(root)).expanduser().exists() and public is not None:
        if public.url is None:
            raise needs_account(public, str(root))
    elif root is not None and not Path(str(root)).expanduser().is_dir():
        what = "is not a folder" if Path(str(root)).expanduser().exists() else "does not exist"
        raise MedvisionError(
            f"{root} {what}",
            where="data.root",
            hint="give the folder of your data set, or leave data.root out for phantoms",
        )
    for key in ("data.splits", "ckpt_path"):
        path = OmegaConf.select(cfg, key)
        if path is not None and not Path(str(path)).expanduser().is_file():
            raise MedvisionError(f"{path} is not a file", where=key, hint="check the path")


def _check_monitor(monitor: str) -> None:
    if monitor.startswith("test/"):
        raise MedvisionError(
            f"{monitor} may not choose the checkpoint: nothing is selected on the test set",
            where="checkpoint.monitor",
            hint=f"use val/{monitor.removeprefix('test/')}",
        )
    if not monitor.startswith(("val/", "train/")):
        raise MedvisionError(
            f"expected a logged value such as val/dice, got {monitor}",
            where="checkpoint.monitor",
            hint=nearest(monitor, ["val/dice", "val/iou", "val/loss", "val/auroc"]),
        )


def _check_logger(target: str) -> None:
    package, extra = EXTRAS.get(target.rpartition(".")[2], (None, None))
    if package is not None and importlib.util.find_spec(package) is None:
        raise MedvisionError(
            f"{package} is not installed",
            where=f"logger={package}",
            hint=f"pip install 'medvision[{extra}]'",
        )
