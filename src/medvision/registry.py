"""Which classes may be built again because a file names them; no other one is ever imported.

A run folder, a checkpoint or an export may come from anywhere.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from medvision.errors import MedvisionError, first_line

if TYPE_CHECKING:  # a config is checked without torch
    from torch import nn


class Purpose(IntEnum):
    """What a class is built for; each purpose allows what the ones before it do."""

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
"""Full names, as patterns, and the first purpose that allows them."""


def may_build(name: str, purpose: Purpose) -> bool:
    """Whether a class that a file names may be imported and built.

    Packages that a user trusts belong here, beside the built-in classes.

    Args:
        name: In full, such as ``medvision.models.UNet``.
        purpose: What it is built for.
    """
    return any(
        first <= purpose and re.fullmatch(pattern, name) is not None for first, pattern in BUILT_IN
    )


def check_classes(config: Any, purpose: Purpose, *, where: str, hint: str) -> None:
    """Check every class that a config, or a part of it, names under ``_target_``.

    Args:
        config: Plain values, as read from a file.
        purpose: What they are built for.
        where: The file, for messages.
        hint: What to do without that class.

    Raises:
        MedvisionError: If one may not be built.
    """
    for name in _classes(config):
        if not may_build(name, purpose):
            raise MedvisionError(
                f"the config of the run names {name}, which is not built from a file",
                where=where,
                hint=hint,
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
        name: Of its class, in full.
        arguments: Of its constructor; weights it would fetch from elsewhere are not fetched.
        where: The file that says so, for messages.

    Raises:
        MedvisionError: If the class may not be built or refuses its arguments.
    """
    if not may_build(name, Purpose.PREDICT):
        known = ", ".join(f"medvision.models.{network}" for network in NETWORKS)
        raise MedvisionError(
            f"the file names the network {name[:80]}, which is not one of {known}",
            where=where,
            hint="load it in Python, where its class is known",
        )
    package, _, network = name.rpartition(".")
    options = dict(arguments)
    if "weights" in options:
        options["weights"] = "none"
    try:
        return getattr(importlib.import_module(package), network)(**options)
    except TypeError as error:
        raise MedvisionError(
            f"{name} refuses its arguments: {first_line(error)}",
            where=where,
            hint="the file is damaged or of another version of medvision",
        ) from error
