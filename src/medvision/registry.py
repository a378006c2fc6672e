"""Which classes may be built again because a file names them; no other one is ever imported.

A run folder, a checkpoint or an export may come from anywhere.
"""

from __future__ import annotations

import re
from enum import IntEnum


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
