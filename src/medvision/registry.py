"""Classes that may be built because a file names them; no other class is ever imported.

A run folder, a checkpoint or an export may come from an untrusted source. Classes of other packages
are built only if the user trusts the package by name, and each class only where it belongs: no
loss is built for a callback. What a class could write to, fetch or run is not for a file to say.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from medvision import libraries
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


NETWORKS = (
    *("AlexNet", "MonaiNetwork", "Normalized", "SimpleCNN", "SmpSegmenter", "TimmClassifier"),
    "UNet",
)

OF_LOGGERS = ("pictures_every_n_epochs", "upload")
"""Keys that medvision reads itself beside any logger."""

KEYS: dict[str, tuple[str, ...]] = {
    "medvision.callbacks.BestAndLast": ("dirpath", "monitor", "mode"),
    "medvision.callbacks.EpochLog": ("dirpath",),
    "medvision.callbacks.Finetuning": ("frozen_epochs", "frozen_stages"),
    "medvision.callbacks.FiniteLoss": ("every_n_steps",),
    "medvision.callbacks.ProgressiveSize": (
        "initial_scale",
        "delay_fraction",
        "finetune_fraction",
        "multiple_px",
    ),
    "medvision.callbacks.Throughput": (),
    "pytorch_lightning.callbacks.EarlyStopping": (
        *("monitor", "mode", "patience", "min_delta", "verbose", "strict", "check_finite"),
        *("stopping_threshold", "divergence_threshold", "check_on_train_epoch_end"),
    ),
    "medvision.callbacks.LateTensorBoard": (
        *("save_dir", "name", "version", "default_hp_metric", "log_graph", "prefix"),
        *OF_LOGGERS,
    ),
    "pytorch_lightning.loggers.CSVLogger": ("save_dir", "name", "version", "prefix"),
    "pytorch_lightning.loggers.TensorBoardLogger": (
        *("save_dir", "name", "version", "default_hp_metric", "log_graph", "prefix"),
        *OF_LOGGERS,
    ),
    "pytorch_lightning.loggers.MLFlowLogger": (
        *("experiment_name", "run_name", "tracking_uri"),
        *OF_LOGGERS,
    ),
    "pytorch_lightning.loggers.WandbLogger": (
        *("save_dir", "project", "name", "offline"),
        *OF_LOGGERS,
    ),
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
    (Purpose.EVALUATE, "metrics", r"medvision\.metrics\.(PerImage|OfClasses)"),
    (Purpose.EVALUATE, "task", r"medvision\.tasks\.[A-Z]\w*|medvision\.models\.BatchMixing"),
    (Purpose.EVALUATE, "trainer", r"pytorch_lightning\.Trainer"),
    (Purpose.RESUME, "optimizer", r"torch\.optim\.[A-Z]\w*"),
    (Purpose.RESUME, "scheduler", r"medvision\.tasks\.schedules\.[a-z]\w*"),
    (Purpose.RESUME, "callbacks", _listed(r"\w+\.callbacks\.(?!Late)")),
    (Purpose.RESUME, "logger", _listed(r"\w+\.(loggers\.|callbacks\.Late)")),
    (Purpose.RESUME_OWN, "logger", _listed(r"\w+\.loggers\.", senders=True)),
)
"""First purpose that allows a class, part of the config, and pattern of full names."""

OF_LIBRARIES: tuple[tuple[Purpose, str, str], ...] = (
    *((Purpose.PREDICT, "model", library.names) for library in libraries.NETWORKS),
    (Purpose.PREDICT, "model", re.escape(libraries.CREATE)),
    *((Purpose.EVALUATE, "loss", library.names) for library in libraries.LOSSES),
    *((Purpose.EVALUATE, "metrics", library.names) for library in libraries.METRICS),
)
"""The same for classes of libraries, which must also be what ``medvision.libraries`` says."""

PARTS = tuple(dict.fromkeys(part for _, part, _ in BUILT_IN))
"""Parts of a config from which classes are built."""


_TRUSTED: set[str] = set()
"""Imported packages that the user trusts."""

ENTRY_POINTS = "medvision.trusted"
"""Group of entry points with which an installed package asks to be trusted in every command."""


@functools.cache
def _registered() -> frozenset[str]:
    """Packages that registered themselves when the user installed them."""
    found = (point.value.partition(":")[0] for point in entry_points(group=ENTRY_POINTS))
    return frozenset(name for name in found if _is_package(name) and not _is_of_python(name))


def _is_package(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _is_of_python(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def trust(packages: Iterable[str]) -> None:
    """Import packages, and allow files to name the classes and functions that they define.

    Importing also runs the packages' own code, such as the definition of a task.

    Args:
        packages: Names of packages or modules, such as ``own_parts``.

    Raises:
        MedvisionError: If a package cannot be imported, or belongs to Python itself.
    """
    for package in packages:
        if not _is_package(package):
            raise _not_trusted(package, "is not the name of a package")
        if _is_of_python(package):
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

    def is_in(rows: Iterable[tuple[Purpose, str, str]]) -> bool:
        return any(
            first <= purpose and part in (None, place) and re.fullmatch(pattern, name) is not None
            for first, place, pattern in rows
        )

    if is_in(BUILT_IN):
        return True
    return _is_of_trusted(name) or (is_in(OF_LIBRARIES) and libraries.is_of_library(name))


def _is_of_trusted(name: str) -> bool:
    """Return True if a trusted package defines it, not only imports it from elsewhere."""
    module, _, last = name.rpartition(".")
    if name.partition(".")[0] == "medvision":
        return False
    trusted = _TRUSTED | _registered()
    if not any(f"{name}.".startswith(f"{package}.") for package in trusted):
        return False
    try:
        found = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):
        return False
    if name.partition(".")[0] in libraries.INSTALLED and not libraries.is_component(found):
        return False
    home = f"{getattr(found, '__module__', None)}."
    return callable(found) and any(home.startswith(f"{package}.") for package in trusted)


def _is_of_library(name: str) -> bool:
    """Return True for a class of a library that the user does not trust as a whole."""
    is_listed = any(re.fullmatch(pattern, name) for _, _, pattern in OF_LIBRARIES)
    return is_listed and not _is_of_trusted(name)


def without_sources(node: Any) -> Any:
    """Switch off arguments that name files, addresses or pretrained weights.

    Args:
        node: Plain values of a checked config; other values than the arguments of a class of a
            library are returned as they are.
    """
    if isinstance(node, list):
        return [without_sources(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    values = {key: without_sources(value) for key, value in node.items()}
    name = str(node.get("_target_"))
    return libraries.switched_off(name, values) if _is_of_library(name) else values


def opening_nothing(node: Any, *, where: str) -> AbstractContextManager[None]:
    """Context for building a node of a file: classes of libraries open and contact nothing.

    Args:
        node: Plain values with ``_target_``.
        where: The file, for messages.
    """
    names = [str(inner["_target_"]) for inner in _with_targets(node)]
    found = [name for name in names if _is_of_library(name)]
    if not found or any(map(_is_of_trusted, names)):
        return nullcontext()
    for name in found:  # a library reads what it likes while it is imported
        importlib.import_module(name.rpartition(".")[0])
    return libraries.nothing_opened(found[0], where=where)


def way_to_trust(name: str, option: str) -> str | None:
    """Instruction for trusting a class named in a file; None if it cannot be trusted."""
    package = name.partition(".")[0]
    if package in ("medvision", *sys.stdlib_module_names) or not package.isidentifier():
        return None
    if package in libraries.INSTALLED and not name.rpartition(".")[2][:1].isupper():
        return None  # a function
    return f"if you know the package {package} and trust it, add {option}{package}"


def check_classes(
    config: Mapping[str, Any],
    purpose: Purpose,
    *,
    where: str,
    hint: str,
    option: str = "--trust ",
    subject: str = "the config of the run",
) -> None:
    """Check every class that a config names under ``_target_``, and the keys that it sets of it.

    Args:
        config: Plain values by part of the config, as read from a file.
        purpose: Purpose of building them.
        where: File, for messages.
        hint: Action if no package can be trusted for the class.
        option: Option of the command that trusts a package.
        subject: What was read, for messages.

    Raises:
        MedvisionError: If one may not be built, or may not be given one of its keys.
    """
    nodes = [(str(node["_target_"]), part, node) for part, node in _nodes(config)]
    refused = (
        [
            (name, f"names {name}, which must not be built from a file")
            for name, part, _ in nodes
            if not may_build(name, purpose, part=part)
        ]
        or [
            (name, f"sets {key} of {name}, which must not be read from a file")
            for name, part, node in nodes
            if (key := _odd_key(node, part)) is not None and not _is_of_trusted(name)
        ]
        or [
            ("", f"gives {name} {found[:60]!r}, which may name a file or an address")
            for name, _, node in nodes
            if _is_of_library(name) and (found := _place_in(node)) is not None
        ]
    )
    # one that no trust could allow is named first
    refused.sort(key=lambda found: way_to_trust(found[0], option) is not None)
    for name, what in refused[:1]:
        raise MedvisionError(
            f"{subject} {what}", where=where, hint=way_to_trust(name, option) or hint
        )


def untrusted(node: Any, purpose: Purpose, *, part: str) -> tuple[str, str] | None:
    """First class of a node that needs the user's trust, and its package.

    Args:
        node: Part of a config, as read from a file.
        purpose: Purpose of building it.
        part: Name of the part.

    Returns:
        None if every class may be built, or one can never be.
    """
    names = [str(inner["_target_"]) for inner in _with_targets(node)]
    refused = [name for name in names if not may_build(name, purpose, part=part)]
    if not refused or any(way_to_trust(name, "") is None for name in refused):
        return None
    return refused[0], refused[0].partition(".")[0]


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


def _place_in(node: Mapping[str, Any]) -> str | None:
    return libraries.find_place({key: value for key, value in node.items() if key != "_target_"})


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
        way = way_to_trust(name, "--trust ")
        why = f"not one of {known}" if way is None else "of a package that you have not trusted"
        raise MedvisionError(
            f"the file names the network {name[:80]}, which is {why}",
            where=where,
            hint=way or "load it in Python, where its class is known",
        )
    node = {**arguments, "_target_": name}
    check_classes(
        {"model": node},
        Purpose.PREDICT,
        where=where,
        hint="load it in Python, where its class is known",
        subject="the file",
    )
    if name.startswith("medvision.models.") and "weights" in node:
        node["weights"] = "none"
    try:
        with opening_nothing(node, where=where):
            return _built(without_sources(node))
    except MedvisionError:
        raise
    except Exception as error:  # its layers may raise anything
        refused = "does not accept its arguments" if isinstance(error, TypeError) else "fails"
        raise MedvisionError(
            f"{name} {refused}: {first_line(error)}",
            where=where,
            hint="the file is damaged or from another version of "
            + ("medvision" if name.startswith("medvision.") else name.partition(".")[0]),
        ) from error


def _built(node: Any) -> Any:
    """Build the checked classes that a node names, the inner ones first."""
    if isinstance(node, list | tuple):
        return [_built(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    options = {key: _built(value) for key, value in node.items()}
    name = options.pop("_target_", None)
    if name is None:
        return options
    positional = options.pop("_args_", ())
    is_partial = options.pop("_partial_", False)
    for key in ("_convert_", "_recursive_"):  # of Hydra, for its own containers
        options.pop(key, None)
    package, _, last = str(name).rpartition(".")
    built = getattr(importlib.import_module(package), last)
    if is_partial:
        return functools.partial(built, *positional, **options)
    return built(*positional, **options)
