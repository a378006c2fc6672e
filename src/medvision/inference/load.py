"""Read a trained network from a run folder, a checkpoint or an export, without executing it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvision.command_line import resuming
from medvision.errors import MedvisionError
from medvision.files import (
    MOST_MODEL_BYTES,
    check_stored,
    is_there,
    open_regular,
    read_plain,
    run_status,
    way_to_run,
)
from medvision.inference.model_card import ModelCard
from medvision.registry import build_network

if TYPE_CHECKING:  # ONNX files run without torch
    from torch import Tensor, nn

DEMO = Path(__file__).parents[1] / "demo"
"""Folder of the model that is part of the package, trained on phantoms, with its summary."""

METADATA_KEY = "medvision"
"""Key of the card in a checkpoint, a safetensors header and an ONNX file."""


def find_model(path: Path) -> Path:
    """Find the model file of a path; for a run folder its best checkpoint.

    ``demo`` is the model of the package, unless a file or folder has that name.

    Raises:
        MedvisionError: If there is no model file.
    """
    path = path.expanduser()
    if is_demo(path):
        return DEMO / "model.safetensors"
    if path.is_dir():
        best = path / "checkpoints" / "best.ckpt"
        if not best.is_file():
            status = _status_of(path)
            if status is not None and status != "finished":
                raise MedvisionError(
                    f"the run has no trained model yet: its status is {status}",
                    where=str(path),
                    hint="wait for its first epoch"
                    if status == "running"
                    else f"continue it: {resuming(path)}",
                )
            raise MedvisionError(
                "not a run folder with a trained model: checkpoints/best.ckpt is missing",
                where=str(path),
                hint=f"{way_to_run(path)}, or a checkpoint",
            )
        return best
    if not path.is_file():
        raise MedvisionError(
            "no such file or folder",
            where=str(path),
            hint="give a run folder, or a .ckpt, .safetensors or .onnx file",
        )
    return path


def is_demo(path: Path) -> bool:
    """Return True for the word ``demo``, if nothing in the current folder has that name."""
    return path == Path("demo") and not is_there(path)


def summary_of(path: Path) -> dict[str, Any]:
    """Read the summary of the run that a model belongs to; empty if there is none.

    Args:
        path: Run folder, checkpoint in it, any other model file, or ``demo``.

    Raises:
        MedvisionError: If the summary is damaged.
    """
    path = path.expanduser()
    if is_demo(path):
        folder = DEMO
    elif path.is_dir():
        folder = path
    elif path.absolute().parent.name == "checkpoints":
        folder = path.absolute().parent.parent
    else:
        return {}
    try:
        return read_plain(folder / "summary.json")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise MedvisionError(
            f"cannot read the summary of the run ({type(error).__name__})",
            where=str(folder / "summary.json"),
            hint="restore it, or give the model file alone",
        ) from error


def unfinished_note(path: Path) -> str | None:
    """Note for the user of a model whose run has not finished; None for any other model.

    Args:
        path: Run folder, or model file.
    """
    status = _status_of(path.expanduser()) if path.is_dir() else None
    if status in (None, "finished"):
        return None
    return f"the run has not finished: its status is {status}; its best checkpoint so far is used"


def _status_of(folder: Path) -> str | None:
    """Status of the run in a folder; None if its summary is missing or damaged."""
    try:
        return run_status(folder, read_plain(folder / "summary.json"))
    except (OSError, ValueError):
        return None


def load_network(
    path: Path | str, *, model: nn.Module | None = None, for_loss: bool = False
) -> tuple[nn.Module, ModelCard]:
    """Build the network of a run folder, a checkpoint or a safetensors export.

    Args:
        path: Path of the file. Nothing in it is executed; only networks on the list of
            ``medvision.registry`` and of packages trusted by the user are built.
        model: Network that the tensors belong to, used instead of the one that the file names.
        for_loss: If True, a custom network with two logits for two classes returns both; else
            their difference, as predictions and exports need it.

    Returns:
        The network in evaluation mode, in float32 on the CPU, and its card.

    Raises:
        MedvisionError: If the file cannot be read, or is not a model of this package.
    """
    file = find_model(Path(path))
    read = _read_safetensors if file.suffix == ".safetensors" else _read_checkpoint
    tensors, metadata = read(file)
    card = ModelCard.from_dict(metadata, where=str(file))
    from medvision.models import Normalized, SizeLimit, load_weights_strict, with_normalization

    if model is None:
        with SizeLimit(file, where=str(file)):
            network = build_network(card.name, card.arguments, where=str(file))
    else:
        network = model
    if model is None or any(name.startswith("normalize.") for name in tensors):
        network = with_normalization(network, in_channels=card.in_channels)
    load_weights_strict(network, tensors, where=str(file))
    if metadata.get("input") == "float":  # trained outside of a run, on images in [0, 1]
        network = with_normalization(network, in_channels=card.in_channels)
    if isinstance(network, Normalized):
        network.two_become_one = not for_loss and card.num_classes == 2
    return network.eval(), card


def _read_checkpoint(file: Path) -> tuple[dict[str, Tensor], Any]:
    """Read the tensors under the network's own names, and the card's values."""
    import torch

    try:
        with warnings.catch_warnings():  # warnings about files that are rejected anyway
            warnings.simplefilter("ignore")
            check_stored(file)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        tensors = {
            name.removeprefix("model."): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith("model.")
        }
        return tensors, checkpoint.get(METADATA_KEY)
    except Exception as error:  # torch.load raises a dozen types on bad files
        raise MedvisionError(
            f"cannot be read as a checkpoint: it is damaged, something else, or contains Python"
            f" objects ({type(error).__name__})",
            where=str(file),
            hint="give a best.ckpt or last.ckpt written by medvision",
        ) from error


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], Any]:
    from safetensors import safe_open

    try:
        open_regular(file, most=MOST_MODEL_BYTES).close()
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            metadata = stored.metadata() or {}
        return tensors, json.loads(metadata.get(METADATA_KEY, "null"))
    except Exception as error:  # safetensors raises its own types and the operating system's
        raise MedvisionError(
            f"cannot be read as safetensors ({type(error).__name__})",
            where=str(file),
            hint="give a file written by medvision export",
        ) from error
