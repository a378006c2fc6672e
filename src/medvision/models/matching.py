"""Finding a network's tensors in a file that names them otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor, nn

from medvision.models.checkpoint import describe_shapes
from medvision.models.normalize import RGB_CHANNELS
from medvision.types import MedvisionError

STATISTICS = (".normalize.mean", ".normalize.std")
"""How names of mean and std end in our own files, which no layer takes."""


class Filled(NamedTuple):
    """Names of tensors: taken and left by the network (with reasons), unused in the file."""

    taken: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]


def fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    part: str,
    hint: str,
    head: Sequence[str] = (),
    final: Sequence[str] = (),
) -> Filled:
    """Copy what a file holds into every tensor of a network, but for whole layers named here.

    Args:
        network: Changed in place.
        tensors: Of the network, or of anything that holds it, by name.
        where: The config key to name in errors.
        part: What to call the network in errors: ``encoder`` or ``backbone``.
        hint: What to do about weights of another architecture.
        head: Layers that may be absent, or of another shape; they are then left as they are.
        final: Layers that may be absent as a whole, if most of the backbone is there.

    Raises:
        MedvisionError: If these are not weights of this network; it is then unchanged.
    """
    wanted = network.state_dict()
    keys, surplus = _rename(wanted, tensors)
    found = {name: tensors[key] for name, key in keys.items()}
    stem = _first_convolution(network)
    if stem in found:
        found[stem] = _adapt_channels(found[stem], wanted[stem].shape[1])

    # Counters of batches, which nothing reads, are absent from older files.
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
    if surplus:  # all of ResNet-18 is found in ResNet-34, and yet is of no use
        raise MedvisionError(
            f"{different} all {len(compared)} {part} tensors match, but "
            f"their layers go on with {len(surplus)} more, first {surplus[0]}",
            where=where,
            hint=hint,
        )
    # smp's encoders override the method to rename other people's files; these names are its own.
    nn.Module.load_state_dict(network, {**wanted, **{name: found[name] for name in taken}})
    used = {keys[name] for name in taken}
    return Filled(
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
    """Tensors of whole layers that may keep their random start, with the reason of each."""
    left: dict[str, str] = {}
    for layer in head:
        names = [name for name in needed if _is_in(name, [layer])]
        if any(name in unfit for name in names):
            left |= {name: unfit.get(name, "the rest of its layer does not fit") for name in names}

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
    """Sum an RGB kernel for grey images, or repeat and scale one for more channels."""
    if kernel.ndim != 4 or kernel.shape[1] == in_channels:
        return kernel
    if kernel.shape[1] == 1:
        return kernel.repeat(1, in_channels, 1, 1) / in_channels
    if kernel.shape[1] == RGB_CHANNELS:
        import timm  # a network for other images than RGB ones may do without it

        return timm.models.adapt_input_conv(in_channels, kernel)
    return kernel


def _rename(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, str], list[str]]:
    """Find the network's tensors under the prefix, and in the spelling, that names most of them.

    A file may be of an encoder, of a whole network (``encoder.``), of a task
    (``model.network.encoder.``) or of timm's own model, which smp wraps (``model.``) and
    flattens (``stages_0`` for ``stages.0``).

    Returns:
        The file's name for each of the network's, and the names of those that the network lacks
        though it has others of the same layer. Whole layers it lacks, such as a classifier or
        the stages below an encoder's depth, are no matter.
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
