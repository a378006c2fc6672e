"""Read tensors from untrusted files and match them to the parameters of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from medvision.console import counted
from medvision.errors import MedvisionError
from medvision.files import check_stored
from medvision.models.normalize import RGB_CHANNELS


def read_tensors(path: Path, *, where: str) -> dict[str, Tensor]:
    """Read the named tensors of a checkpoint or state dict without executing anything in it.

    Args:
        path: A ``.safetensors`` file, or one written by ``torch.save``; if it holds a dictionary
            with an entry ``state_dict`` (Lightning) or ``model``, that entry is read.
        where: Config key to name in errors.

    Raises:
        MedvisionError: If the file is missing, damaged, holds Python objects or no tensors.
    """
    if not path.is_file():
        raise MedvisionError(f"no such file: {path}", where=where, hint="check the path")
    try:
        content = _read(path)
    except Exception as error:  # torch.load and safetensors raise a dozen types on bad files
        raise MedvisionError(
            f"{path} cannot be read as weights: it is damaged, not a checkpoint, or contains "
            f"Python objects ({type(error).__name__})",
            where=where,
            hint="save a state dict with torch.save or safetensors",
        ) from error
    for entry in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise MedvisionError(
            f"{path} contains no named tensors",
            where=where,
            hint="give a state dict or a checkpoint",
        )
    return tensors


def _read(path: Path) -> Any:
    check_stored(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # only such files need it

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


SPARE_BYTES = 200_000_000
"""Memory that any network may take, however small its file is."""

MOST_TENSORS = 100_000
"""Largest number of tensors made for one network."""


class SizeLimit(TorchDispatchMode):
    """Refuse to build a network that is far larger than the file of its weights.

    The size of each new tensor is found on the meta device, before it takes any memory. The
    networks themselves cannot be built there: they compute with values while they are built.

    Args:
        file: File of the weights; a network in float32 is at most a few times as large.
        where: File or config key to name in errors.

    Raises:
        MedvisionError: In the block, if the tensors are larger.
    """

    def __init__(self, file: Path, *, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.where, self.most_bytes = where, 4 * file.stat().st_size + SPARE_BYTES
        self.num_bytes = self.num_tensors = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not any(isinstance(value, Tensor | list) and _holds_tensors(value) for value in args):
            try:
                made = func(*args, **{**given, "device": torch.device("meta")})
            except (TypeError, RuntimeError, NotImplementedError):  # makes no new tensor
                made = None
            if isinstance(made, Tensor):
                self._count(made)
        return func(*args, **given)

    def _count(self, made: Tensor) -> None:
        self.num_bytes += made.numel() * made.element_size()
        self.num_tensors += 1
        if self.num_bytes > self.most_bytes or self.num_tensors > MOST_TENSORS:
            raise MedvisionError(
                f"the network takes more than {self.most_bytes // 1_000_000} MB, which its weights"
                " cannot fill",
                where=self.where,
                hint="the file is damaged or was not written by medvision",
            )


def _holds_tensors(value: Tensor | list[Any]) -> bool:
    return isinstance(value, Tensor) or any(isinstance(item, Tensor) for item in value)


def load_weights_strict(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor of ``model`` from ``state_dict``, all of them or none.

    Args:
        model: Changed in place.
        state_dict: Tensors with the names and shapes of the model's own.
        where: File or config key to name in errors.

    Raises:
        MedvisionError: If the checkpoint belongs to another model; the model is then unchanged.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state_dict]
    unexpected = [name for name in state_dict if name not in wanted]
    misshaped = [
        name
        for name, tensor in wanted.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    if missing or unexpected or misshaped:
        if misshaped:
            first = describe_shapes(misshaped[0], state_dict[misshaped[0]], wanted[misshaped[0]])
        else:
            first = (missing or unexpected)[0]
        raise MedvisionError(
            f"the weights are of another model: {counted(len(missing), 'tensor')} missing, "
            f"{len(unexpected)} unexpected, {len(misshaped)} of another shape, first {first}",
            where=where,
            hint="use the model config that the checkpoint was trained with",
        )
    model.load_state_dict(dict(state_dict))


def describe_shapes(name: str, found: Tensor, wanted: Tensor) -> str:
    """Describe the shape of a tensor and the expected shape."""
    return f"{name} {tuple(found.shape)} instead of {tuple(wanted.shape)}"


Statistic = tuple[float, ...]
"""Mean or std of pixels in [0, 1]: one number, or one per channel."""

MOST_LAYERS = 8
"""Largest number of layers named in one line of a report."""


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Weights loaded into a network; names are its tensors unless stated otherwise.

    Attributes:
        source: ``none``, ``imagenet``, ``packaged`` or the path of the file.
        mean: Mean used in training of the weights; three numbers for an RGB network even if its
            first convolution was summed for grey images.
        std: Standard deviation, likewise.
        taken: Tensors that were filled.
        left: Tensors that kept their random initialisation, as ``name: reason``. Batch counters,
            which are never read, are in neither list.
        unused: Tensors of the source that were not used, under their names in the source.
    """

    source: str = ""
    mean: Statistic = ()
    std: Statistic = ()
    taken: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def within(self, network: nn.Module, part: str) -> LoadedWeights:
        """Convert to a network of which only the submodule ``part`` was loaded."""
        if not self.taken:
            return self
        others = (name for name in network.state_dict() if not name.startswith(f"{part}."))
        new = (f"{name}: new for this task" for name in others)
        return replace(
            self,
            taken=tuple(f"{part}.{name}" for name in self.taken),
            left=(*(f"{part}.{line}" for line in self.left), *new),
        )

    def report(self) -> list[str]:
        """Format as at most three lines for the screen; empty if nothing was loaded."""
        if not self.taken:
            return []
        total = len(self.taken) + len(self.left)
        lines = [
            f"weights from {self.source}: {len(self.taken)} of {total} tensors used "
            f"({_listed(_by_layer(self.taken))})"
        ]
        reasons = dict(line.split(": ", 1) for line in self.left)
        left = _by_layer(reasons)
        if left:
            layers = [
                f"{layer} ({counted(len(names), 'tensor')}:"
                f" {_why(layer, {name: reasons[name] for name in names})})"
                for layer, names in left.items()
            ]
            lines.append(f"not used, trained from scratch: {_listed(layers)}")
        unused = [
            f"{layer} ({counted(len(names), 'tensor')})"
            for layer, names in _by_layer(self.unused).items()
            if layer not in left  # already reported with the reason there
        ]
        if unused:
            lines.append(f"unused in the file: {_listed(unused)}")
        return lines


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names by outermost layer; the prefixes of a task and its wrapper are ignored."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer = re.sub(r"^(model\.|network\.)+", "", name).split(".")[0]
        layers.setdefault(layer, []).append(name)
    return layers


def _listed(layers: Iterable[str]) -> str:
    shown = list(layers)
    return ", ".join(shown[:MOST_LAYERS]) + (", ..." if len(shown) > MOST_LAYERS else "")


def _why(layer: str, reasons: dict[str, str]) -> str:
    """Reason shared by all tensors of a layer, or the first reason with its tensor."""
    name, reason = next(iter(reasons.items()))
    return reason if len({*reasons.values()}) == 1 else f"{name.removeprefix(f'{layer}.')} {reason}"


STATISTICS = (".normalize.mean", ".normalize.std")
"""Suffixes of mean and std in files of this package, which no layer uses."""


def fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    part: str,
    hint: str,
    head: Sequence[str] = (),
    final: Sequence[str] = (),
) -> LoadedWeights:
    """Copy tensors of a file into every tensor of a network, except for the layers named here.

    Args:
        network: Changed in place.
        tensors: Tensors by name, of the network or of any module that contains it.
        where: Config key to name in errors.
        part: Name of the network in errors: ``encoder`` or ``backbone``.
        hint: Advice for weights of another architecture.
        head: Layers that may be missing or differ in shape; they are then left unchanged.
        final: Layers that may be missing as a whole, if most of the backbone is present.

    Returns:
        The result of loading, without source, mean and std.

    Raises:
        MedvisionError: If the weights belong to another network; it is then unchanged.
    """
    wanted = network.state_dict()
    keys, surplus = _rename(wanted, tensors)
    found = {name: tensors[key] for name, key in keys.items()}
    stem = _first_convolution(network)
    if stem in found:
        found[stem] = _adapt_channels(found[stem], wanted[stem].shape[1])

    # Batch counters are never read and are missing from older files.
    needed = [name for name in wanted if name in found or not name.endswith("num_batches_tracked")]
    unfit = {
        name: f"{tuple(found[name].shape)} in the file, {tuple(wanted[name].shape)} here"
        if name in found
        else "not in the file"
        for name in needed
        if name not in found or found[name].shape != wanted[name].shape
    }
    left = _layers_to_leave(wanted, needed, unfit, head=head, final=final)
    taken = [name for name in needed if name not in left]
    compared = [name for name in taken if not _is_in(name, head)]
    different = "weights of a different architecture:"
    mismatches = [name for name in compared if name in unfit]
    if mismatches:
        first = mismatches[0]
        problem = (
            describe_shapes(first, found[first], wanted[first])
            if first in found
            else f"{first} is missing"
        )
        raise MedvisionError(
            f"{different} {len(compared) - len(mismatches)} of {len(compared)} "
            f"{part} tensors match, first mismatch {problem}",
            where=where,
            hint=hint,
        )
    surplus = [name for name in surplus if not _is_in(name, head)]
    if surplus:  # ResNet-34 contains all names of ResNet-18, but its weights do not fit
        raise MedvisionError(
            f"{different} all {len(compared)} {part} tensors match, but "
            f"their layers have {len(surplus)} more, first {surplus[0]}",
            where=where,
            hint=hint,
        )
    # smp's encoders override the method to rename third-party files; these names need no renaming.
    nn.Module.load_state_dict(network, {**wanted, **{name: found[name] for name in taken}})
    used = {keys[name] for name in taken}
    return LoadedWeights(
        taken=tuple(taken),
        left=tuple(f"{name}: {reason}" for name, reason in left.items()),
        unused=tuple(
            key for key in tensors if key not in used and not f".{key}".endswith(STATISTICS)
        ),
    )


def _layers_to_leave(
    wanted: Mapping[str, Tensor],
    needed: Sequence[str],
    unfit: Mapping[str, str],
    *,
    head: Sequence[str],
    final: Sequence[str],
) -> dict[str, str]:
    """Find tensors of whole layers that may keep their random initialisation, with reasons."""
    left: dict[str, str] = {}
    for layer in head:
        names = [name for name in needed if _is_in(name, [layer])]
        if any(name in unfit for name in names):
            left |= {
                name: unfit.get(name, "the rest of its layer does not match") for name in names
            }

    backbone = [name for name in needed if not _is_in(name, head)]
    absent: dict[str, str] = {}
    for layer in final:
        names = [name for name in backbone if _is_in(name, [layer])]
        if all(unfit.get(name) == "not in the file" for name in names):
            absent |= {name: unfit[name] for name in names}
    num_values = {name: wanted[name].numel() for name in backbone}
    if 2 * sum(num_values[name] for name in absent) < sum(num_values.values()):
        left |= absent
    return {name: left[name] for name in needed if name in left}


def _is_in(name: str, layers: Sequence[str]) -> bool:
    return any(name.startswith(f"{layer}.") for layer in layers)


def _first_convolution(network: nn.Module) -> str:
    names = (name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    return f"{next(names, '')}.weight"


def _adapt_channels(kernel: Tensor, in_channels: int) -> Tensor:
    """Sum an RGB kernel for grey images, or repeat and scale a kernel for more channels."""
    if kernel.ndim != 4 or kernel.shape[1] == in_channels:
        return kernel
    if kernel.shape[1] == 1:
        return kernel.repeat(1, in_channels, 1, 1) / in_channels
    if kernel.shape[1] == RGB_CHANNELS:
        import timm  # not needed for RGB images

        return timm.models.adapt_input_conv(in_channels, kernel)
    return kernel


def _rename(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, str], list[str]]:
    """Find the network's tensors under the prefix and spelling that match most of them.

    A file may contain an encoder, a whole network (``encoder.``), a task
    (``model.network.encoder.``) or a timm model, which smp wraps (``model.``) and flattens
    (``stages_0`` for ``stages.0``).

    Returns:
        The file's name for each tensor of the network, and the names of tensors that the network
        lacks although it has others of the same layer. Layers that it lacks entirely, such as a
        classifier or the stages below an encoder's depth, are ignored.
    """
    best: dict[str, str] = {}
    surplus: list[str] = []
    whole, numbered = r"[^.]+", r"[a-z]+\.\d+|[^.]+"
    for spell, layer in ((_unwrapped, whole), (_unflattened, numbered), (_flattened, whole)):
        names = {spell(name): name for name in wanted}
        prefixes = Counter(
            key.removesuffix(tail) for key in tensors for tail in _tails(key) if tail in names
        )
        for prefix, _ in prefixes.most_common(1):
            under = {key.removeprefix(prefix): key for key in tensors if key.startswith(prefix)}
            found = {names[name]: key for name, key in under.items() if name in names}
            if len(found) > len(best):
                layers = {re.findall(layer, name)[0] for name in names}
                best = found
                surplus = [
                    name
                    for name in under
                    if name not in names and re.findall(layer, name)[0] in layers
                ]
    return best, surplus


def _tails(key: str) -> Iterator[str]:
    """Yield ``c``, ``b.c`` and ``a.b.c`` for ``a.b.c``."""
    parts = key.split(".")
    return accumulate(reversed(parts), lambda tail, part: f"{part}.{tail}")


def _unwrapped(name: str) -> str:
    return re.sub(r"^(model\.)+", "", name)


def _unflattened(name: str) -> str:
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", _unwrapped(name))


def _flattened(name: str) -> str:
    return re.sub(r"^([a-z]+)\.(\d+)\.", r"\1_\2.", _unwrapped(name))
