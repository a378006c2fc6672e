"""Classes that may be built because a file names them; no other class is ever imported.

A run folder, a checkpoint or an export may come from an untrusted source. Classes of other packages
are built only if the user trusts the package by name.
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
    """Everything in the config of an interrupted run."""


NETWORKS = ("AlexNet", "SimpleCNN", "SmpSegmenter", "TimmClassifier", "UNet")

BUILT_IN: tuple[tuple[Purpose, str], ...] = (
    (Purpose.PREDICT, rf"medvision\.models\.({'|'.join(NETWORKS)})"),
    (Purpose.EVALUATE, r"medvision\.(data|losses|models|tasks)\.[A-Z]\w*"),
    (Purpose.EVALUATE, r"segmentation_models_pytorch\.losses\.[A-Z]\w*Loss"),
    (Purpose.EVALUATE, r"torch\.nn\.[A-Z]\w*Loss"),
    (Purpose.EVALUATE, r"pytorch_lightning\.Trainer"),
    (Purpose.RESUME, r"torch\.optim\.[A-Z]\w*"),
    (Purpose.RESUME, r"pytorch_lightning\.(callbacks|loggers)\.[A-Z]\w*"),
    (Purpose.RESUME, r"medvision\.callbacks\.[A-Z]\w*"),
    (Purpose.RESUME, r"medvision\.tasks\.schedules\.[a-z]\w*"),
)
"""Patterns of full names, with the first purpose that allows them."""


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


def may_build(name: str, purpose: Purpose) -> bool:
    """Return True if a class that a file names may be imported and built.

    Args:
        name: Full name, such as ``medvision.models.UNet``.
        purpose: Purpose of building it.
    """
    return _is_of_trusted(name) or any(
        first <= purpose and re.fullmatch(pattern, name) is not None for first, pattern in BUILT_IN
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
    if package in sys.stdlib_module_names or not package.isidentifier():
        return None
    return f"if you know the package {package} and trust it, add {option}{package}"


def check_classes(
    config: Any, purpose: Purpose, *, where: str, hint: str, option: str = "--trust "
) -> None:
    """Check every class that a config, or a part of it, names under ``_target_``.

    Args:
        config: Plain values, as read from a file.
        purpose: Purpose of building them.
        where: File, for messages.
        hint: Action if no package can be trusted for the class.
        option: Option of the command that trusts a package.

    Raises:
        MedvisionError: If one may not be built.
    """
    for name in _classes(config):
        if not may_build(name, purpose):
            raise MedvisionError(
                f"the config of the run names {name}, which must not be built from a file",
                where=where,
                hint=_way_to_trust(name, option) or hint,
            )


def _classes(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if node.get("_target_") is not None:
            yield str(node["_target_"])
        node = list(node.values())
    for value in node if isinstance(node, list) else ():
        yield from _classes(value)


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
