"""Write a network as ONNX or safetensors with its metadata, and run the file again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import medvision
from medvision.errors import MedvisionError, first_line
from medvision.export.check import Outputs, Runner, WithProbability, in_float32
from medvision.inference.engine import LOGITS, OnnxEngine
from medvision.inference.load import METADATA_KEY, load_network
from medvision.inference.model_card import ModelCard
from medvision.task_definition import task_of
from medvision.types import RESEARCH_ONLY

OPSET = 18
"""Opset of 2022: has every operator that the networks need; ONNX Runtime 1.14 and later read it."""

IMAGE, PROBABILITY = "image", "probability"
"""Names of the input and the second output."""

LARGEST_BYTES = 2**31 - 2**20
"""Largest size of an ONNX file, minus a margin for the graph."""


def write_onnx(network: nn.Module, card: ModelCard, file: Path) -> None:
    """Write the network with a dynamic batch size, its model card and usage instructions.

    Input ``image`` uint8 (N, C, S, S), outputs ``logits`` and ``probability``.

    Args:
        network: In evaluation mode, float32 on the CPU.
        card: Model card of the network.
        file: Replaced if it exists.

    Raises:
        MedvisionError: If the network is too large or cannot be expressed in ONNX.
    """
    size_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    if size_bytes > LARGEST_BYTES:
        raise MedvisionError(
            f"expected at most 2 GB for an ONNX file, got {size_bytes / 1e9:.1f} GB of weights",
            where=card.architecture,
            hint="export to safetensors",
        )
    proto = _to_proto(network, card)
    _drop_metadata(proto.graph)
    del proto.metadata_props[:]
    for key, value in {METADATA_KEY: _json(card.to_dict()), **describe(card)}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    proto.producer_name, proto.producer_version = "medvision", medvision.__version__
    proto.doc_string = RESEARCH_ONLY
    file.write_bytes(proto.SerializeToString())


def run_onnx(file: Path) -> Runner:
    """Load the file in ONNX Runtime, as other programs do, and return a function that runs it.

    Raises:
        MedvisionError: If the file cannot be loaded or run.
    """
    with _runtime_errors():
        engine = OnnxEngine(file)

    def run(images: NDArray[np.uint8]) -> Outputs:
        with _runtime_errors():
            logits, probability = engine.run(images, [LOGITS, PROBABILITY])
        return logits, probability

    return run


@contextlib.contextmanager
def _runtime_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime raises its own types, one for each kind of failure
        raise MedvisionError(
            f"ONNX Runtime cannot run the exported network: {first_line(error)}",
            hint="no file was written; export to safetensors",
            exit_code=3,
        ) from error


def _to_proto(network: nn.Module, card: ModelCard) -> Any:
    try:
        # Some layers, such as the decoder of SegFormer, are recorded for two images or more. The
        # graph is the same for one, on which the check of the export runs it.
        try:
            program = _recorded(network, card, fewest=1)
        except torch.onnx.errors.OnnxExporterError as error:
            if "Constraints violated" not in str(error):
                raise
            program = _recorded(network, card, fewest=2)
    except Exception as error:  # the exporter raises its own types, and whatever layers raise
        raise MedvisionError(
            f"the network cannot be exported to ONNX: {first_line(error)}",
            where=card.architecture,
            hint="export to safetensors",
            exit_code=3,
        ) from error
    assert program is not None, "the exporter returns a program if it writes no file"
    return program.model_proto


def _recorded(network: nn.Module, card: ModelCard, *, fewest: int) -> Any:
    """Record the operations of a network for any batch of ``fewest`` images or more."""
    size_px = card.image_size
    example = torch.zeros(2, card.in_channels, size_px, size_px, dtype=torch.uint8)
    with _quiet():
        return torch.onnx.export(
            WithProbability(network).eval(),
            (example,),
            dynamo=True,
            input_names=[IMAGE],
            output_names=[LOGITS, PROBABILITY],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=fewest)}},
            opset_version=OPSET,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's own lines. Its errors are still raised."""
    names = ("torch.onnx._internal.exporter._schemas", "torch._guards", "torch._dynamo")
    loggers = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, before in loggers.items():
            logger.setLevel(before)


def _drop_metadata(graph: Any) -> None:
    """Remove the exporter's stack traces, which contain folder names of this machine."""
    del graph.metadata_props[:]
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in part:
            del item.metadata_props[:]
            item.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _drop_metadata(attribute.g)


def write_safetensors(network: nn.Module, card: ModelCard, file: Path) -> None:
    """Write the tensors under the network's own names, with the model card in the header.

    Args:
        network: On the CPU.
        card: Model card of the network.
        file: Replaced if it exists.
    """
    from safetensors.torch import save

    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    metadata = {"format": "pt", METADATA_KEY: _json(card.to_dict())}
    content = save({name: t.contiguous() for name, t in tensors.items()}, metadata=metadata)
    file.write_bytes(content)  # safetensors' own function raises other types for disk errors


def run_safetensors(file: Path, network: nn.Module) -> Runner:
    """Read the file back, check that the tensors are identical, and run it.

    Raises:
        MedvisionError: If a tensor differs.
    """
    again, _ = load_network(file)
    wanted, given = network.state_dict(), again.state_dict()
    changed = [name for name in wanted if not torch.equal(wanted[name], given[name])]
    if changed:
        raise MedvisionError(
            f"the file differs from what was written: {changed[0]}",
            where=str(file),
            hint="no file was written; check the disk",
            exit_code=3,
        )
    return in_float32(again)


def sidecar(card: ModelCard, file: Path) -> str:
    """Build the JSON file written beside the exported file.

    Args:
        card: Model card of the network.
        file: The finished file.

    Returns:
        The card under ``medvision``, its text form under ``description``, and the file's name and
        SHA-256.
    """
    values: dict[str, Any] = {
        METADATA_KEY: card.to_dict(),
        "description": describe(card),
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def describe(card: ModelCard) -> dict[str, str]:
    """Describe inputs, outputs, preprocessing and postprocessing.

    Returns:
        Text by key, lists as JSON, because the metadata of an ONNX file holds text only.
    """
    size, names = card.image_size, card.class_names
    colour = "RGB" if card.in_channels == 3 else "grey"
    two, per_pixel = card.num_classes == 2, task_of(card.task).per_pixel
    pixels = f", {size}, {size}" if per_pixel else ""
    channels, whose = (1, f"of {names[1]}") if two else (len(names), "of each class in order")
    chosen = (
        f"{names[1]} where sigmoid(logit) >= {card.threshold:g}, else {names[0]}"
        if two
        else f"{'of ' * per_pixel}the class with the largest logit"
    )
    enlarged = (
        "enlarge the logits bilinearly (between pixel centres, OpenCV INTER_LINEAR) to the height"
        " and width of the image; every pixel is then "
    )
    return {
        "task": card.task,
        "architecture": card.architecture,
        "class_names": _json(names),
        "image_size": str(size),
        "in_channels": str(card.in_channels),
        "mean": _json(card.mean),
        "std": _json(card.std),
        "threshold": str(card.threshold),
        "input": f"image: uint8 (N, {card.in_channels}, {size}, {size}), {colour}, 0-255; resize to"
        f" {size} x {size}: area when shrinking, bilinear when growing",
        "preprocessing": _preprocessing(card),
        "normalisation": "inside the network: (image / 255 - mean) / std",
        "output": f"logits: float32 (N, {channels}{pixels}) {whose}; probability: the same shape,"
        f" {'sigmoid' if two else 'softmax over the classes'} of the logits",
        "postprocessing": enlarged * per_pixel + chosen,
        "medvision_version": medvision.__version__,
        "notice": RESEARCH_ONLY,
    }


def _preprocessing(card: ModelCard) -> str:
    size, deep = card.image_size, "above 8 bits,"
    steps = [
        "rotate by the EXIF orientation",
        "composite transparent pixels over black",
        "convert colours to grey by 0.299 R + 0.587 G + 0.114 B"
        if card.in_channels == 1
        else "convert grey to three equal channels",
        f"{deep} map the smallest value of the image to 0, the largest to 255"
        if card.value_range is None
        else f"{deep} map {card.value_range[0]:g} to 0 and {card.value_range[1]:g} to 255, clip"
        " others",
        f"resize to {size} x {size} without keeping the aspect ratio: OpenCV INTER_AREA if height"
        f" and width are both above {size}, else INTER_LINEAR",
    ]
    if card.eval_transforms:
        steps.append(f"then albumentations {_json(card.eval_transforms)}")
    return "; ".join(steps)


def _json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)
