"""Write a network's tensors, and beside them the JSON that rebuilds it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvision.errors import MedvisionError
from medvision.export.check import Runner, in_float32
from medvision.export.description import describe
from medvision.inference.load import METADATA_KEY, load_network
from medvision.inference.model_card import ModelCard


def write_safetensors(network: nn.Module, card: ModelCard, file: Path) -> None:
    """Write the tensors under the network's own names, with the card in the header.

    Args:
        network: On the CPU.
        card: Of the network.
        file: Replaced if it exists.
    """
    from safetensors.torch import save

    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    metadata = {"format": "pt", METADATA_KEY: json.dumps(card.to_dict(), ensure_ascii=False)}
    content = save({name: t.contiguous() for name, t in tensors.items()}, metadata=metadata)
    file.write_bytes(content)  # not by their function, whose errors of the disk are its own


def run_safetensors(file: Path, network: nn.Module) -> Runner:
    """Read the file back, which must give the very same tensors, and run it.

    Raises:
        MedvisionError: If it differs.
    """
    again, _ = load_network(file)
    wanted, given = network.state_dict(), again.state_dict()
    changed = [name for name in wanted if not torch.equal(wanted[name], given[name])]
    if changed:
        raise MedvisionError(
            f"the file does not give back what was written: {changed[0]} differs",
            where=str(file),
            hint="no file was written; check the disk",
            exit_code=3,
        )
    return in_float32(again)


def sidecar(card: ModelCard, file: Path) -> str:
    """The JSON beside the file.

    Args:
        card: Of the network.
        file: The finished file.

    Returns:
        Under ``medvision`` the card, under ``description`` the same in words, and the file's
        name and SHA-256.
    """
    values: dict[str, Any] = {
        METADATA_KEY: card.to_dict(),
        "description": describe(card),
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
