"""Write a network as ONNX, whole in one file, with all that is needed to use it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import medvision
from medvision.errors import MedvisionError, first_line, install_command
from medvision.export.check import Outputs, Runner, WithProbability
from medvision.export.description import describe
from medvision.inference.engine import num_cores
from medvision.inference.load import METADATA_KEY
from medvision.inference.model_card import ModelCard
from medvision.inference.onnx_engine import LOGITS
from medvision.types import RESEARCH_ONLY

OPSET = 18
"""Of 2022: every operator that the networks need, and read by every ONNX Runtime since 1.14."""

IMAGE, PROBABILITY = "image", "probability"
"""Names of the input and of the second output."""

LARGEST_BYTES = 2**31 - 2**20
"""What one ONNX file can hold, less a little for the graph."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx() -> None:
    """Make sure that what exporting needs is there, before anything is loaded.

    Raises:
        MedvisionError: If a package is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise MedvisionError(
            f"{' and '.join(missing)} is not installed",
            where="--format onnx",
            hint=f"run: {install_command('onnx')}",
        )


def write_onnx(network: nn.Module, card: ModelCard, file: Path) -> None:
    """Write the network with a free batch size, its card and how it is used.

    Input ``image`` uint8 (N, C, S, S), outputs ``logits`` and ``probability``.

    Args:
        network: In evaluation mode, float32 on the CPU.
        card: Of the network.
        file: Replaced if it exists.

    Raises:
        MedvisionError: If the network is too large or its computation cannot be expressed.
    """
    size_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    if size_bytes > LARGEST_BYTES:
        raise MedvisionError(
            f"an ONNX file holds at most 2 GB, the weights have {size_bytes / 1e9:.1f} GB",
            where=card.architecture,
            hint="export to safetensors",
        )
    proto = _to_proto(network, card)
    _drop_metadata(proto.graph)
    del proto.metadata_props[:]
    values = {METADATA_KEY: json.dumps(card.to_dict(), ensure_ascii=False), **describe(card)}
    _add_metadata(proto, values)
    proto.producer_name, proto.producer_version = "medvision", medvision.__version__
    proto.doc_string = RESEARCH_ONLY
    file.write_bytes(proto.SerializeToString())


def run_onnx(file: Path) -> Runner:
    """Run the file with ONNX Runtime, as other programs do; so does the function returned.

    Raises:
        MedvisionError: If it cannot be run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    options.log_severity_level = 3  # errors only; they are raised too
    with _runtime_errors():
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

    def run(images: NDArray[np.uint8]) -> Outputs:
        batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        with _runtime_errors():
            logits, probability = session.run([LOGITS, PROBABILITY], {IMAGE: batch})
        return logits, probability

    return run


@contextlib.contextmanager
def _runtime_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # it raises types of its own, one for each kind of failure
        raise MedvisionError(
            f"ONNX Runtime cannot run the exported network: {first_line(error)}",
            hint="no file was written; export to safetensors",
            exit_code=3,
        ) from error


def _to_proto(network: nn.Module, card: ModelCard) -> Any:
    size_px = card.image_size
    example = torch.zeros(2, card.in_channels, size_px, size_px, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            program = torch.onnx.export(
                WithProbability(network).eval(),
                (example,),
                dynamo=True,
                input_names=[IMAGE],
                output_names=[LOGITS, PROBABILITY],
                dynamic_shapes={"image": {0: batch}},
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises types of its own, and whatever layers do
        raise MedvisionError(
            f"the network cannot be exported to ONNX: {first_line(error)}",
            where=card.architecture,
            hint="export to safetensors",
            exit_code=3,
        ) from error
    assert program is not None, "the exporter returns a program unless told to write a file"
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on annotations of torchvision's operators."""
    logger = logging.getLogger("torch.onnx._internal.exporter._schemas")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _drop_metadata(graph: Any) -> None:
    """Forget the traces of the exporter: they name the folders of this machine."""
    del graph.metadata_props[:]
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in part:
            del item.metadata_props[:]
            item.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _drop_metadata(attribute.g)


def _add_metadata(proto: Any, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
