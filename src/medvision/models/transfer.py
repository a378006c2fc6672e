"""What a network took from its weights, what it left, and how the user is told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

Statistic = tuple[float, ...]
"""Mean or std of pixels in [0, 1]: one number, or one per channel."""

MOST_LAYERS = 8
"""Layers named in one line of a report."""


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """What was loaded into a network; every name is one of its tensors unless said otherwise.

    Attributes:
        source: ``none``, ``imagenet``, ``packaged`` or the path of the file.
        mean: What the weights were trained with; three numbers for an RGB network even where
            its first convolution was summed for grey images.
        std: Likewise.
        taken: Tensors that were filled.
        left: Tensors that kept their random start, as ``name: reason``. Counters of batches,
            which nothing reads, are in neither.
        unused: Tensors of the source that nothing took, under the names they have there.
    """

    source: str
    mean: Statistic
    std: Statistic
    taken: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def num_tensors(self) -> int:
        """How many tensors were filled."""
        return len(self.taken)

    def within(self, network: nn.Module, part: str) -> LoadedWeights:
        """Tell the same of a network of which only the submodule ``part`` was loaded."""
        if not self.taken:
            return self
        others = (name for name in network.state_dict() if not name.startswith(f"{part}."))
        new = (f"{name}: new for the task" for name in others)
        return replace(
            self,
            taken=tuple(f"{part}.{name}" for name in self.taken),
            left=(*(f"{part}.{line}" for line in self.left), *new),
        )

    def report(self) -> list[str]:
        """Lines for the screen, three at most; none where nothing was loaded."""
        if not self.taken:
            return []
        total = len(self.taken) + len(self.left)
        lines = [
            f"weights from {self.source}: {len(self.taken)} of {total} tensors taken "
            f"({_listed(_by_layer(self.taken))})"
        ]
        reasons = dict(line.split(": ", 1) for line in self.left)
        left = _by_layer(reasons)
        if left:
            layers = [
                f"{layer} ({_count(names)}: {_why(layer, {name: reasons[name] for name in names})})"
                for layer, names in left.items()
            ]
            lines.append(f"not taken, trained from scratch: {_listed(layers)}")
        unused = [
            f"{layer} ({_count(names)})"
            for layer, names in _by_layer(self.unused).items()
            if layer not in left  # the reason there has told of them
        ]
        if unused:
            lines.append(f"left over in the file: {_listed(unused)}")
        return lines


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by the outermost layer they are in; a task and its wrapper are no layers."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer = re.sub(r"^(model\.|network\.)+", "", name).split(".")[0]
        layers.setdefault(layer, []).append(name)
    return layers


def _listed(layers: Iterable[str]) -> str:
    shown = list(layers)
    return ", ".join(shown[:MOST_LAYERS]) + (", ..." if len(shown) > MOST_LAYERS else "")


def _why(layer: str, reasons: dict[str, str]) -> str:
    """The reason of all tensors of a layer, or the first with its name."""
    name, reason = next(iter(reasons.items()))
    return reason if len({*reasons.values()}) == 1 else f"{name.removeprefix(f'{layer}.')} {reason}"


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
