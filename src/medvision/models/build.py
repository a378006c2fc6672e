"""Build a network by the name in a file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from medvision.errors import MedvisionError, first_line
from medvision.registry import NETWORKS, Purpose, may_build


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
    module = importlib.import_module(package)
    options = dict(arguments)
    if "weights" in options:
        options["weights"] = "none"
    try:
        return getattr(module, network)(**options)
    except TypeError as error:
        raise MedvisionError(
            f"{name} refuses its arguments: {first_line(error)}",
            where=where,
            hint="the file is damaged or of another version of medvision",
        ) from error
