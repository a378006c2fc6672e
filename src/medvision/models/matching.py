"""Finding an encoder's tensors in a file that names them otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

from torch import Tensor, nn

from medvision.models.checkpoint import describe_shapes
from medvision.models.normalize import RGB_CHANNELS
from medvision.types import MedvisionError

FIT_HINT = "set model.encoder to the encoder that these weights belong to"


def fill_encoder(encoder: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> int:
    """Copy what a file holds into every tensor of an encoder.

    Args:
        encoder: Changed in place.
        tensors: Of the encoder, or of anything that holds it, by name.
        where: The config key to name in errors.

    Returns:
        How many tensors the encoder took.

    Raises:
        MedvisionError: If these are not weights of this encoder; it is then unchanged.
    """
    import timm

    wanted = encoder.state_dict()
    renamed, surplus = _rename(wanted, tensors)
    stem = next(key for key, m in encoder.named_modules() if isinstance(m, nn.Conv2d)) + ".weight"
    kernel = renamed.get(stem)
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == RGB_CHANNELS:
        renamed[stem] = timm.models.adapt_input_conv(wanted[stem].shape[1], kernel)

    # Counters of batches, which nothing reads, are absent from older files.
    needed = [key for key in wanted if key in renamed or not key.endswith("num_batches_tracked")]
    unfit = [key for key in needed if key not in renamed or renamed[key].shape != wanted[key].shape]
    if unfit:
        first = unfit[0]
        problem = (
            describe_shapes(first, renamed[first], wanted[first])
            if first in renamed
            else f"{first} is missing"
        )
        raise MedvisionError(
            f"weights of a different architecture: {len(needed) - len(unfit)} of {len(needed)} "
            f"encoder tensors match, first mismatch {problem}",
            where=where,
            hint=FIT_HINT,
        )
    if surplus:  # all of ResNet-18 is found in ResNet-34, and yet is of no use
        raise MedvisionError(
            f"weights of a different architecture: all {len(needed)} encoder tensors match, but "
            f"their layers go on with {len(surplus)} more, first {surplus[0]}",
            where=where,
            hint=FIT_HINT,
        )
    # smp's encoders override the method to rename other people's files; these names are its own.
    nn.Module.load_state_dict(encoder, {**wanted, **renamed})
    return len(needed)


def _rename(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Find the encoder's tensors under the prefix, and in the spelling, that names most of them.

    A file may be of the encoder, of a whole network (``encoder.``), of a task
    (``model.network.encoder.``) or of timm's own model, which smp wraps (``model.``) and
    flattens (``stages_0`` for ``stages.0``).

    Returns:
        The tensors under the encoder's names, and the names of those that the encoder lacks
        though it has others of the same layer. Whole layers it lacks, such as a classifier or
        the stages below its depth, are no matter.
    """
    best: dict[str, Tensor] = {}
    surplus: list[str] = []
    for spell, layer in ((_unwrapped, r"[^.]+"), (_unflattened, r"[a-z]+\.\d+|[^.]+")):
        names = {spell(key): key for key in wanted}
        prefixes = Counter(
            key.removesuffix(tail) for key in tensors for tail in _tails(key) if tail in names
        )
        for prefix, _ in prefixes.most_common(1):
            under = {
                key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)
            }
            found = {names[name]: tensor for name, tensor in under.items() if name in names}
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


def _unwrapped(key: str) -> str:
    return re.sub(r"^(model\.)+", "", key)


def _unflattened(key: str) -> str:
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", _unwrapped(key))
