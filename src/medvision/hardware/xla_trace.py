"""Counters and traces of torch-xla: compilations, fallbacks, transfers and their causes."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

VARIABLE = "PT_XLA_DEBUG_FILE"
_CAUSE = re.compile(r"^(Compilation|Execution) Analysis: \1 Cause$", re.MULTILINE)
_FRAME = re.compile(r"^\w+ Analysis:   (\S+) \((.+):(\d+)\)$")
_LIBRARIES = ("/site-packages/", "/lib/python3", "<frozen")


@dataclass(frozen=True)
class Trigger:
    """One compilation or execution.

    Attributes:
        kind: Compilation or execution.
        read: True if Python read a value, False at the end of a step.
        place: ``function (file:line)`` of the innermost line outside the libraries, or "".
    """

    kind: Literal["compilation", "execution"]
    read: bool
    place: str


def take_triggers() -> list[Trigger]:
    """Triggers that torch-xla has written since the last call; empty if tracing is off."""
    name = os.environ.get(VARIABLE)
    if name is None or not Path(name).exists():
        return []
    text = Path(name).read_text(errors="replace")
    Path(name).write_text("")  # torch-xla appends to it
    return read_triggers(text)


def read_triggers(text: str) -> list[Trigger]:
    """Parse the triggers in a trace of torch-xla, in order."""
    kinds, blocks = _CAUSE.split(text)[1::2], _CAUSE.split(text)[2::2]
    return [_read_block(kind, block) for kind, block in zip(kinds, blocks, strict=True)]


def _read_block(kind: str, block: str) -> Trigger:
    frames = [_FRAME.match(line) for line in block.splitlines()]
    own = [f for f in frames if f is not None and not any(part in f[2] for part in _LIBRARIES)]
    return Trigger(
        kind="compilation" if kind == "Compilation" else "execution",
        read="trying to access tensor value" in block,
        place=f"{own[0][1]} ({Path(own[0][2]).name}:{own[0][3]})" if own else "",
    )


NOT_ON_XLA_CPU = {
    "aten::upsample_nearest2d": "only the TPU backend has its custom call",
    "aten::upsample_nearest2d_backward": "only the TPU backend has its custom call",
    "aten::upsample_bilinear2d": "only the TPU backend has its custom call",
    "aten::upsample_bilinear2d_backward": "only the TPU backend has its custom call",
}
"""Operators that a TPU computes and XLA's CPU backend passes to PyTorch, each with the reason
(torch-xla 2.9, ``aten_xla_type.cpp``)."""


def count_compilations() -> int:
    """Number of graphs compiled since the process began."""
    from torch_xla.debug import metrics

    data = metrics.metric_data("CompileTime")
    return 0 if data is None else int(data[0])


def count_reads() -> int:
    """Number of times the host has waited for values of the device since the process began."""
    from torch_xla.debug import metrics

    data = metrics.metric_data("TransferFromDeviceTime")
    return 0 if data is None else int(data[0])


def find_fallbacks() -> dict[str, int]:
    """Number of calls of each operator that XLA lacks and PyTorch computed on the host."""
    from torch_xla.debug import metrics

    names = (name for name in metrics.counter_names() if name.startswith("aten::"))
    return {name: int(metrics.counter_value(name)) for name in sorted(names)}


def finish_step() -> None:
    """Send every pending operation to the device, without waiting for it."""
    import torch_xla

    torch_xla.sync()
