"""Reading tensors out of files that may be anything, and putting them where they belong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvision.files import check_stored
from medvision.types import MedvisionError


def read_tensors(path: Path, *, where: str) -> dict[str, Tensor]:
    """Read the named tensors of a checkpoint or state dict without executing anything in it.

    Args:
        path: A ``.safetensors`` file, or one that ``torch.save`` wrote; of a dictionary the entry
            ``state_dict`` (Lightning) or ``model`` is taken where there is one.
        where: The config key to name in errors.

    Raises:
        MedvisionError: If the file is missing, damaged, holds Python objects or no tensors.
    """
    if not path.is_file():
        raise MedvisionError(f"no such file: {path}", where=where, hint="check the path")
    try:
        content = _read(path)
    except Exception as error:  # torch.load and safetensors raise a dozen types on bad files
        raise MedvisionError(
            f"{path} cannot be read as weights: it is damaged, no checkpoint, or holds Python "
            f"objects ({type(error).__name__})",
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
            f"{path} holds no named tensors", where=where, hint="give a state dict or a checkpoint"
        )
    return tensors


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # only such files need it

        return load_file(path)
    check_stored(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def load_weights_strict(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Fill every tensor of ``model`` from ``state_dict``, all of them or none.

    Args:
        model: Changed in place.
        state_dict: Must have the names and shapes of the model's own.
        where: The file or config key to name in errors.

    Raises:
        MedvisionError: If the checkpoint is of another model; the model is then unchanged.
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
            f"the weights are of another model: {len(missing)} tensors missing, "
            f"{len(unexpected)} unexpected, {len(misshaped)} of another shape, first {first}",
            where=where,
            hint="use the model config that the checkpoint was trained with",
        )
    model.load_state_dict(dict(state_dict))


def describe_shapes(name: str, found: Tensor, wanted: Tensor) -> str:
    """Say which tensor has which shape, and which it should have."""
    return f"{name} {tuple(found.shape)} instead of {tuple(wanted.shape)}"
