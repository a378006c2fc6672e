"""Schema of the config: valid values, checked before any slow import."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from medvision.data.download.catalog import find, needs_account
from medvision.data.shards.location import check_address, place_of
from medvision.errors import MedvisionError, did_you_mean, install_command
from medvision.run.config.hydra_errors import keys_of, nearest
from medvision.run.config.processes import check_processes
from medvision.scores import names_at

_MAKES_NAMES = re.compile(
    r"^def __getattr__|^__getattr__\b|\b(globals|exec)\(|\bsys\.modules\b", re.MULTILINE
)
"""Ways in which a module may define names that its text does not show."""


def check_targets(cfg: DictConfig) -> None:
    """Check that every class named in a config exists.

    Sources are read, not imported. Names that a module defines other than by ``class``, ``def``,
    ``import`` or assignment are accepted, and so are modules that are not Python source.

    Raises:
        MedvisionError: If a package, module, class or function certainly does not exist, or a
            callback has keys but no class.
    """
    for name, node in (cfg.get("callbacks") or {}).items():
        if node is not None and "_target_" not in node:
            raise MedvisionError(
                "config for a callback that is not enabled",
                where=f"callbacks.{name}",
                hint=f"remove it with callbacks.{name}=null, or enable it with callbacks={name}",
            )
    for key, target in _entries(cfg, re.compile("^_target_$")):
        if isinstance(target, str) and "${" not in target:
            _check(target, where=key)


def _entries(cfg: DictConfig, pattern: re.Pattern[str]) -> Iterator[tuple[str, Any]]:
    """Full name and unresolved value of every key whose last part matches, at any depth."""
    for key, value in keys_of(OmegaConf.to_container(cfg, resolve=False)):
        if pattern.search(key.rpartition(".")[2]):
            yield key, value


def _check(target: str, *, where: str) -> None:
    if target == "???":
        hint = f"set {where}, or choose an option that sets it"
        raise MedvisionError("no class is set", where=where, hint=hint)
    package, *names = target.split(".")
    spec = _find(package)
    if spec is None:
        raise MedvisionError(
            f"cannot find the package {package}", where=where, hint="install it, or fix the name"
        )
    for name in names:
        inside = _inside(spec, name)
        if inside is None:
            known = _names(spec)
            if known is not None and name not in known:
                alike = [k for k in known if k[:1].isupper() == name[:1].isupper() and k[0] != "_"]
                hint = did_you_mean(name, sorted(alike), otherwise="fix the name")
                raise MedvisionError(f"{spec.name} has no {name}", where=where, hint=hint)
            return  # names inside a class are not checked
        spec = inside


def _find(name: str) -> ModuleSpec | None:
    """Find a module without importing it or its parent packages."""
    package, *parts = name.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # the module was created at run time
        return ModuleSpec(package, None)
    for part in parts:
        spec = None if spec is None else _inside(spec, part)
    return spec


def _inside(package: ModuleSpec, name: str) -> ModuleSpec | None:
    """Spec of a module in a package; None if there is no such module."""
    finders: Any = map(pkgutil.get_importer, package.submodule_search_locations or ())
    found = (finder.find_spec(f"{package.name}.{name}") for finder in finders if finder)
    return next(filter(None, found), None)


def _names(module: ModuleSpec) -> set[str] | None:
    """Names that a module defines at its top level, under any condition; None if unknown.

    Modules from which everything is imported (``import *``) are included.
    """
    source = Path(module.origin or "")
    if source.suffix != ".py":
        return None
    text = source.read_text(encoding="utf-8", errors="replace")
    stub = source.with_suffix(".pyi")
    if "attach_stub(" in text and stub.is_file():  # names load on first use
        text = stub.read_text(encoding="utf-8", errors="replace")
    elif _MAKES_NAMES.search(text):
        return None
    try:
        nodes: list[ast.AST] = [*ast.parse(text).body]
    except SyntaxError:  # importing it will report the error
        return None
    names: set[str] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            more = None if node.level else _find(node.module or "")
            others = None if more is None else _names(more)
            if others is None:
                return None
            names |= others
        nodes.extend(ast.iter_child_nodes(node))
    return names


class Rule(NamedTuple):
    """Rule for a value; ``a | b`` accepts the values that either rule accepts."""

    holds: Callable[[Any], bool]
    expected: str

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            lambda v: self.holds(v) or other.holds(v), f"{self.expected}, or {other.expected}"
        )


def _integer(low: int, high: int | None = None) -> Rule:
    words = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    return Rule(lambda v: type(v) is int and low <= v and (high is None or v <= high), words)


def _number(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    def holds(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return (low < value if above else low <= value) and value < high

    words = f"a number {'above' if above else 'of at least'} {low:g}"
    return Rule(holds, words if high == float("inf") else f"{words} and below {high:g}")


def _one_of(*values: Any) -> Rule:
    return Rule(lambda v: str(v) in map(str, values), f"one of {', '.join(map(str, values))}")


_POSITIVE = _number(0, above=True)
_INSIDE = _number(0, 1, above=True)
_COUNT = _integer(1)
_SHARE = _number(0, 1)
_FLAG = _one_of(True, False)
_TEXT = Rule(lambda v: isinstance(v, str), "a string")
_NULL = Rule(lambda v: v is None, "null")
_AUTO = Rule(lambda v: v == "auto", "auto")
_NO_END = Rule(lambda v: type(v) is int and v == -1, "-1")
_BATCHES = Rule(lambda v: v is None or (type(v) is int and v >= 0), "a number of batches") | Rule(
    lambda v: type(v) is float and 0 <= v <= 1, "a fraction from 0.0 to 1.0"
)
_SOME_BATCHES = Rule(
    lambda v: v is None or (type(v) is int and v >= 1), "a number of batches of at least 1"
) | Rule(lambda v: type(v) is float and 0 < v <= 1, "a fraction above 0.0 and up to 1.0")

PRECISIONS = ("auto", "32", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")

MOST_LOADERS = 256
"""Upper limit of loader processes; more would only compete for the machine."""

_NAMES = Rule(
    lambda v: isinstance(v, Sequence) and all(isinstance(name, str) for name in v),
    "a name or a list of names",
)

SCHEMA: dict[str, Rule] = {
    "seed": _integer(0, 2**32 - 1),
    "audit": _one_of("warn", "strict", "skip"),
    "trust": _NAMES | _NULL,
    "checkpoint.mode": _one_of("max", "min") | _NULL,
    "checkpoint.every_minutes": _POSITIVE | _NULL,
    "data.image_size": _integer(16, 8192),
    "data.batch_size": _COUNT,
    "data.num_workers": _integer(0, MOST_LOADERS),
    "data.num_images": _integer(3),
    "data.in_channels": _one_of(1, 3),
    "data.num_classes": _integer(2, 255) | _NULL,
    "data.phantom": _one_of("chest", "brain"),
    "data.protocol": _one_of("official", "merged", "grouped", "kfold"),
    "data.fold": _integer(0),
    "data.folds": _integer(2),
    "data.sampler": _one_of("shuffle", "balanced"),
    "data.subgroups": _NAMES,
    "data.group_by": _one_of("sequence") | _NULL,
    "data.val_fraction": _SHARE,
    "data.test_fraction": _SHARE,
    "data.split_seed": _integer(0),
    "data.on_error": _one_of("fail", "skip"),
    "data.shuffle_shards": _COUNT | _NULL,
    "data.cache_gb": _POSITIVE,
    "data.decoded_gb": _number(0),
    "data.reduced_decoding": _FLAG,
    "data.mask_suffix": _TEXT,
    "data.task": _TEXT | _NULL,
    "data.class_pattern": _TEXT | _NULL,
    **dict.fromkeys(
        (f"data.{key}" for key in ("images", "masks", "mask_pattern", "mask_template", "roi")),
        _TEXT | _NULL,
    ),
    "data.annotator": _TEXT | _integer(0) | _NULL,
    "data.mask_merge": _one_of("union", "majority", "first") | _NULL,
    "data.ignore_index": _integer(0, 255) | _NULL,
    "data.instances": _FLAG,
    "data.exclude": _NAMES | _NULL,
    "model.base_channels": _COUNT,
    "model.batch_norm": _FLAG,
    "model.drop_path": _SHARE,
    "model.dropout": _SHARE,
    "loss.label_smoothing": _SHARE,
    "loss.weights.cross_entropy": _number(0),
    "loss.weights.dice": _number(0),
    "task.threshold": _INSIDE | _one_of("validation", "youden", "sensitivity"),
    "task.sensitivity": _INSIDE | _NULL,
    "task.prevalence": _INSIDE | _NULL,
    "task.ordered_classes": _FLAG,
    "task.backbone_lr_factor": _number(0),
    "task.mixing.mixup_alpha": _number(0),
    "task.mixing.cutmix_alpha": _number(0),
    "optimizer.lr": _POSITIVE,
    "optimizer.weight_decay": _number(0),
    "scheduler.warmup_fraction": _SHARE,
    "scheduler.final_factor": _number(0),
    "scheduler.factor": _INSIDE,
    "scheduler.patience": _integer(0),
    "callbacks.early_stopping.patience": _integer(0),
    "callbacks.finetuning.frozen_epochs": _integer(0),
    "callbacks.finetuning.frozen_stages": _integer(0),
    "callbacks.progressive_size.initial_scale": _INSIDE,
    "callbacks.progressive_size.delay_fraction": _SHARE,
    "callbacks.progressive_size.finetune_fraction": _SHARE,
    "callbacks.progressive_size.multiple_px": _COUNT,
    "trainer.accelerator": _one_of("auto", "cpu", "gpu", "cuda", "tpu", "tpu_rehearsal"),
    "trainer.devices": _COUNT | _AUTO,
    "trainer.num_nodes": _COUNT,
    "trainer.sync_batchnorm": _FLAG,
    "trainer.max_epochs": _COUNT,
    "trainer.max_steps": _COUNT | _NO_END,
    "trainer.precision": _one_of(*PRECISIONS),
    "trainer.memory_format": _one_of("auto", "channels_last", "contiguous"),
    "trainer.deterministic": _one_of("auto", True, False, "warn"),
    "trainer.accumulate_grad_batches": _COUNT,
    "trainer.gradient_clip_val": _POSITIVE | _NULL,
    "trainer.limit_train_batches": _SOME_BATCHES,
    "trainer.limit_val_batches": _BATCHES,
    "trainer.limit_test_batches": _BATCHES,
    "trainer.log_every_n_steps": _integer(0),
    "trainer.num_sanity_val_steps": _integer(-1),
    "trainer.enable_model_summary": _FLAG,
    "trainer.detect_anomaly": _FLAG,
    "logger.pictures_every_n_epochs": _COUNT | _NULL,
    "logger.upload": _FLAG,
    "sweep.sampler": _one_of("tpe", "random", "grid") | _NULL,
    "sweep.pruner": _one_of("median", "none"),
    "sweep.mode": _one_of("max", "min") | _NULL,
    "sweep.num_trials": _COUNT,
    "sweep.seed": _integer(0),
    "sweep.startup_trials": _COUNT,
    "sweep.warmup_epochs": _integer(0),
    "sweep.jobs": _COUNT,
}
"""Rule for each key that can be checked without the data and without torch."""

CHOOSES = re.compile("(^|_)(monitor|objective|metric)s?$")
"""Keys whose value makes a decision, such as when to stop."""

EXTRAS = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
"""Package that each logger requires; the optional extra has the same name."""


def trusted_packages(config: DictConfig) -> tuple[str, ...]:
    """Packages named by ``trust``, one or a list; none for any other value."""
    given = OmegaConf.select(config, "trust")
    names = [given] if isinstance(given, str) else given if OmegaConf.is_list(given) else []
    return tuple(name for name in names if isinstance(name, str))


def check_config(cfg: DictConfig) -> None:
    """Check a config against the schema, and the rules that involve several keys.

    Raises:
        MedvisionError: If a value has the wrong type or is out of range, a path is missing, a
            test metric would be used for a choice, a fold is set for a protocol without folds, the
            package of a logger is not installed, a named class does not exist, or the started
            processes do not match the config.
    """
    check_values(cfg)
    _check_paths(cfg)
    monitor = str(cfg.checkpoint.monitor)
    check_metric(monitor, where="checkpoint.monitor", may_not="choose the checkpoint")
    _check_choices(cfg)
    fold, protocol = (OmegaConf.select(cfg, f"data.{key}") for key in ("fold", "protocol"))
    if fold and protocol != "kfold":
        raise MedvisionError(
            f"fold {fold} is requested, but the protocol {protocol} has no folds",
            where="data.fold",
            hint="add data.protocol=kfold",
        )
    node = "callbacks.progressive_size"
    delay, rest = (
        OmegaConf.select(cfg, f"{node}.{key}", default=0)
        for key in ("delay_fraction", "finetune_fraction")
    )
    if delay + rest > 1:
        raise MedvisionError(
            f"expected delay_fraction and finetune_fraction to add up to at most 1, got {delay:g}"
            f" and {rest:g}",
            where=node,
            hint="lower one of them",
        )
    package = EXTRAS.get(str(OmegaConf.select(cfg, "logger._target_")).rpartition(".")[2])
    if package is not None and importlib.util.find_spec(package) is None:
        raise MedvisionError(
            f"{package} is not installed",
            where=f"logger={package}",
            hint=f"run: {install_command(package)}",
        )
    check_targets(cfg)
    check_processes(cfg)


def check_values(cfg: DictConfig, *, part: str = "") -> None:
    """Check the values of a config, or of a part of it, against the schema.

    Raises:
        MedvisionError: If a value has the wrong type or is out of range.
    """
    absent = object()
    for key, rule in SCHEMA.items():
        value = OmegaConf.select(cfg, key, default=absent) if key.startswith(part) else absent
        if value is not absent and not rule.holds(value):
            message = f"expected {rule.expected}, got {value}"
            raise MedvisionError(message, where=key, hint="change it")


def _check_paths(cfg: DictConfig) -> None:
    root, name = OmegaConf.select(cfg, "data.root"), OmegaConf.select(cfg, "data.download")
    if root is not None and not str(root).strip():
        raise MedvisionError(
            "data.root is empty",
            where="data.root",
            hint="give the folder of your data set (. for this one), or leave data.root out for"
            " phantoms",
        )
    public = None if name is None else find(str(name), where="data.download")
    place = None if root is None else place_of(str(root))
    if isinstance(place, str):  # the network is checked when the data are prepared
        check_address(place)
    elif place is not None and not place.exists() and public is not None:
        if public.url is None:
            raise needs_account(public, str(root))
    elif place is not None and not place.is_dir():
        what = "is not a folder" if place.exists() else "does not exist"
        raise MedvisionError(
            f"{root} {what}",
            where="data.root",
            hint="give the folder of your data set, or leave data.root out for phantoms",
        )
    for key in ("data.splits", "ckpt_path"):
        path = OmegaConf.select(cfg, key)
        if path is not None and not Path(str(path)).expanduser().is_file():
            raise MedvisionError(f"{path} is not a file", where=key, hint="check the path")


def check_metric(metric: str, *, where: str, may_not: str) -> None:
    """Refuse a metric that is not a logged value, or that is computed on test images.

    Args:
        metric: Such as ``val/dice``.
        where: Key that names it.
        may_not: The use that is forbidden for a test metric, in words.

    Raises:
        MedvisionError: If the metric may not be used.
    """
    if _names_test(metric):
        raise MedvisionError(
            f"{metric} must not be used to {may_not}: nothing is selected on the test set",
            where=where,
            hint=f"use {_of_val(metric)}",
        )
    if not metric.startswith(("val/", "train/")):
        raise MedvisionError(
            f"expected a logged value such as val/dice, got {metric}",
            where=where,
            hint=nearest(metric, [f"val/{name}" for name in names_at("log")]),
        )


def _check_choices(cfg: DictConfig) -> None:
    """Refuse test metrics for any choice: early stopping, schedules, searches."""
    for key, _ in _entries(cfg, CHOOSES):
        if key.partition(".")[0] == "metrics":  # these decide nothing by themselves
            continue
        value = OmegaConf.select(cfg, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        for name in filter(_names_test, _texts(value)):
            raise MedvisionError(
                f"{name} must not be used for a decision: nothing is selected on the test set",
                where=key,
                hint=f"use {_of_val(name)}",
            )


def _texts(node: Any) -> Iterator[str]:
    """Every string in a value, at any depth."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)


def _names_test(metric: str) -> bool:
    return metric.strip(" -+").casefold().startswith("test")


def _of_val(metric: str) -> str:
    """Same score on the validation images."""
    return re.sub(r"^[ +-]*test[^a-z0-9]*", "val/", metric, flags=re.IGNORECASE).strip()
