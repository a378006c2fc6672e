"""Classes that may be built because a file names them; no other class is ever imported.

A run folder, a checkpoint or an export may come from an untrusted source. Classes of other packages
are built only if the user trusts the package by name, and each class only where it belongs: no
loss is built for a callback. What a class could write to, fetch or run is not for a file to say.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from medvision.errors import MedvisionError, first_line

if TYPE_CHECKING:  # a config is checked without torch
    from torch import nn


class Purpose(IntEnum):
    """Purpose of building a class; each purpose includes the permissions of those before it."""

    PREDICT = 1
    """The network of a checkpoint or an export."""
    EVALUATE = 2
    """Data, loss, task and trainer of a finished run."""
    RESUME = 3
    """Everything in the config of an interrupted run that stays on this machine."""
    RESUME_OWN = 4
    """Everything in the config of an interrupted run that this user has started."""


NETWORKS = ("AlexNet", "SimpleCNN", "SmpSegmenter", "TimmClassifier", "UNet")

KEYS: dict[str, tuple[str, ...]] = {
    "medvision.callbacks.BestAndLast": ("dirpath", "monitor", "mode"),
    "medvision.callbacks.EpochLog": ("dirpath",),
    "medvision.callbacks.Finetuning": ("frozen_epochs",),
    "medvision.callbacks.FiniteLoss": ("every_n_steps",),
    "medvision.callbacks.Throughput": (),
    "pytorch_lightning.callbacks.EarlyStopping": (
        *("monitor", "mode", "patience", "min_delta", "verbose", "strict", "check_finite"),
        *("stopping_threshold", "divergence_threshold", "check_on_train_epoch_end"),
    ),
    "medvision.callbacks.LateTensorBoard": (
        *("save_dir", "name", "version", "default_hp_metric", "log_graph", "prefix"),
    ),
    "pytorch_lightning.loggers.CSVLogger": ("save_dir", "name", "version", "prefix"),
    "pytorch_lightning.loggers.TensorBoardLogger": (
        *("save_dir", "name", "version", "default_hp_metric", "log_graph", "prefix"),
    ),
    "pytorch_lightning.loggers.MLFlowLogger": ("experiment_name", "run_name", "tracking_uri"),
    "pytorch_lightning.loggers.WandbLogger": ("save_dir", "project", "name", "offline"),
    "pytorch_lightning.Trainer": (
        *("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "precision"),
        *("memory_format", "deterministic", "benchmark", "inference_mode", "detect_anomaly"),
        *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time"),
        *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
        *("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"),
        *("check_val_every_n_epoch", "val_check_interval", "num_sanity_val_steps"),
        *("log_every_n_steps", "enable_model_summary", "reload_dataloaders_every_n_epochs"),
    ),
}
"""Keys that a file may set of a class whose other keys name folders, addresses or code."""

PATH_KEYS = ("dirpath", "save_dir")
"""Those of them that name a folder: it is always the run folder."""

SENDERS = ("pytorch_lightning.loggers.MLFlowLogger", "pytorch_lightning.loggers.WandbLogger")
"""Loggers that send what they log to an address."""


def _listed(start: str, *, senders: bool = False) -> str:
    """Pattern of the classes in ``KEYS`` whose names match ``start``."""
    found = (n for n in KEYS if re.match(start, n) and (n in SENDERS) == senders)
    return "|".join(map(re.escape, found))


BUILT_IN: tuple[tuple[Purpose, str, str], ...] = (
    (Purpose.PREDICT, "model", rf"medvision\.models\.({'|'.join(NETWORKS)})"),
    (Purpose.EVALUATE, "data", r"medvision\.data\.[A-Z]\w*"),
    (Purpose.EVALUATE, "loss", r"medvision\.losses\.[A-Z]\w*"),
    (Purpose.EVALUATE, "loss", r"segmentation_models_pytorch\.losses\.[A-Z]\w*Loss"),
    (Purpose.EVALUATE, "loss", r"torch\.nn\.[A-Z]\w*Loss"),
    (Purpose.EVALUATE, "task", r"medvision\.tasks\.[A-Z]\w*|medvision\.models\.BatchMixing"),
    (Purpose.EVALUATE, "trainer", r"pytorch_lightning\.Trainer"),
    (Purpose.RESUME, "optimizer", r"torch\.optim\.[A-Z]\w*"),
    (Purpose.RESUME, "scheduler", r"medvision\.tasks\.schedules\.[a-z]\w*"),
    (Purpose.RESUME, "callbacks", _listed(r"\w+\.callbacks\.(?!Late)")),
    (Purpose.RESUME, "logger", _listed(r"\w+\.(loggers\.|callbacks\.Late)")),
    (Purpose.RESUME_OWN, "logger", _listed(r"\w+\.loggers\.", senders=True)),
)
"""First purpose that allows a class, part of the config, and pattern of full names."""

PARTS = tuple(dict.fromkeys(part for _, part, _ in BUILT_IN))
"""Parts of a config from which classes are built."""


_TRUSTED: set[str] = set()
"""Imported packages that the user trusts."""


def trust(packages: Iterable[str]) -> None:
    """Import packages, and allow files to name the classes and functions that they define.

    Importing also runs the packages' own code, such as the definition of a task.

    Args:
        packages: Names of packages or modules, such as ``own_parts``.

    Raises:
        MedvisionError: If a package cannot be imported, or belongs to Python itself.
    """
    for package in packages:
        if not all(part.isidentifier() for part in package.split(".")):
            raise _not_trusted(package, "is not the name of a package")
        if package.partition(".")[0] in sys.stdlib_module_names:
            raise _not_trusted(package, "is part of Python, whose functions a file must not call")
        try:
            importlib.import_module(package)
        except Exception as error:  # importing may raise anything
            raise _not_trusted(package, f"cannot be imported: {first_line(error)}") from error
        _TRUSTED.add(package)


def _not_trusted(package: str, why: str) -> MedvisionError:
    return MedvisionError(
        f"{package[:80]} {why}",
        where="trust",
        hint="name an installed package, or one on PYTHONPATH",
    )


def may_build(name: str, purpose: Purpose, *, part: str | None = None) -> bool:
    """Return True if a class that a file names may be imported and built.

    Args:
        name: Full name, such as ``medvision.models.UNet``.
        purpose: Purpose of building it.
        part: Part of the config that names it; None for any.
    """
    return _is_of_trusted(name) or any(
        first <= purpose and part in (None, place) and re.fullmatch(pattern, name) is not None
        for first, place, pattern in BUILT_IN
    )


def _is_of_trusted(name: str) -> bool:
    """Return True if a trusted package defines it, not only imports it from elsewhere."""
    module, _, last = name.rpartition(".")
    if not any(f"{name}.".startswith(f"{package}.") for package in _TRUSTED):
        return False
    try:
        found = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):
        return False
    home = f"{getattr(found, '__module__', None)}."
    return callable(found) and any(home.startswith(f"{package}.") for package in _TRUSTED)


def _way_to_trust(name: str, option: str) -> str | None:
    """Instruction for trusting a class named in a file; None if it cannot be trusted."""
    package = name.partition(".")[0]
    if package in ("medvision", *sys.stdlib_module_names) or not package.isidentifier():
        return None
    return f"if you know the package {package} and trust it, add {option}{package}"


def check_classes(
    config: Mapping[str, Any], purpose: Purpose, *, where: str, hint: str, option: str = "--trust "
) -> None:
    """Check every class that a config names under ``_target_``, and the keys that it sets of it.

    Args:
        config: Plain values by part of the config, as read from a file.
        purpose: Purpose of building them.
        where: File, for messages.
        hint: Action if no package can be trusted for the class.
        option: Option of the command that trusts a package.

    Raises:
        MedvisionError: If one may not be built, or may not be given one of its keys.
    """
    nodes = [(str(node["_target_"]), part, node) for part, node in _nodes(config)]
    refused = [
        (name, f"names {name}, which must not be built from a file")
        for name, part, _ in nodes
        if not may_build(name, purpose, part=part)
    ] or [
        (name, f"sets {key} of {name}, which must not be read from a file")
        for name, part, node in nodes
        if not _is_of_trusted(name) and (key := _odd_key(node, part)) is not None
    ]
    for name, what in refused[:1]:
        raise MedvisionError(
            f"the config of the run {what}", where=where, hint=_way_to_trust(name, option) or hint
        )


CALLED_LATER = ("loss", "optimizer", "scheduler")
"""Parts whose classes may be built later, when a caller has the other arguments."""


def _odd_key(node: Mapping[str, Any], part: str | None) -> str | None:
    """First key of a node that a file may not set; None if there is none."""
    known = KEYS.get(str(node["_target_"]))
    for key in map(str, node):
        of_hydra = key.startswith("_") and key.endswith("_")
        allowed = ("_target_", *(["_partial_"] if part in CALLED_LATER else []))
        if key not in allowed if of_hydra else known is not None and key not in known:
            return key
    return None


def _nodes(config: Mapping[str, Any]) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Every node with a ``_target_``, and its part; None for what no class is built from."""
    for part, below in config.items():
        for node in _with_targets(below):
            yield (part if part in PARTS else None), node


def _with_targets(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        if node.get("_target_") is not None:
            yield node
        node = list(node.values())
    for value in node if isinstance(node, list) else ():
        yield from _with_targets(value)


def build_network(name: str, arguments: Mapping[str, Any], *, where: str) -> nn.Module:
    """Build a network with random weights, ready for the tensors of a checkpoint.

    Args:
        name: Full name of its class.
        arguments: Arguments of its constructor; pretrained weights are not downloaded.
        where: File that names the class, for messages.

    Raises:
        MedvisionError: If the class may not be built or rejects its arguments.
    """
    if not may_build(name, Purpose.PREDICT):
        known = ", ".join(f"medvision.models.{network}" for network in NETWORKS)
        raise MedvisionError(
            f"the file names the network {name[:80]}, which is not one of {known}",
            where=where,
            hint=_way_to_trust(name, "--trust ") or "load it in Python, where its class is known",
        )
    package, _, network = name.rpartition(".")
    options = dict(arguments)
    if "weights" in options:
        options["weights"] = "none"
    try:
        return getattr(importlib.import_module(package), network)(**options)
    except TypeError as error:
        raise MedvisionError(
            f"{name} does not accept its arguments: {first_line(error)}",
            where=where,
            hint="the file is damaged or from another version of medvision",
        ) from error
