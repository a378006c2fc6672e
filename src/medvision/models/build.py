"""Build a network by the name in a file, from a list of what may be built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from medvision.errors import MedvisionError, first_line

BUILDABLE = {
    f"medvision.models.{name}": module
    for name, module in {
        "AlexNet": "alexnet",
        "SimpleCNN": "simple_cnn",
        "SmpSegmenter": "smp_segmenter",
        "TimmClassifier": "timm_classifier",
        "UNet": "unet",
    }.items()
}
"""Classes that a checkpoint may name, and their modules; no other one is ever imported."""


def build_network(name: str, arguments: Mapping[str, Any], *, where: str) -> nn.Module:
    """Build a network with random weights, ready for the tensors of a checkpoint.

    Args:
        name: As in ``BUILDABLE``.
        arguments: Of its constructor; weights it would fetch from elsewhere are not fetched.
        where: The file that says so, for messages.

    Raises:
        MedvisionError: If the class is not on the list or refuses its arguments.
    """
    if name not in BUILDABLE:
        raise MedvisionError(
            f"the file names the network {name[:80]}, which is not one of {', '.join(BUILDABLE)}",
            where=where,
            hint="load it in Python, where its class is known",
        )
    module = importlib.import_module(f"medvision.models.{BUILDABLE[name]}")
    options = dict(arguments)
    if "weights" in options:
        options["weights"] = "none"
    try:
        return getattr(module, name.rpartition(".")[2])(**options)
    except TypeError as error:
        raise MedvisionError(
            f"{name} refuses its arguments: {first_line(error)}",
            where=where,
            hint="the file is damaged or of another version of medvision",
        ) from error
