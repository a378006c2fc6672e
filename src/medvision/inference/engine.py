"""Interface of inference engines, and an engine for ONNX Runtime, which needs no torch."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medvision.errors import MedvisionError, install_command
from medvision.files import MOST_MODEL_BYTES, open_regular
from medvision.hardware.processes import memory_mb, num_cores
from medvision.inference.load import METADATA_KEY
from medvision.inference.model_card import ModelCard


class Engine(Protocol):
    """Maps images to logits; safe to call from several threads at once.

    Attributes:
        threads: Number of concurrent threads with the highest throughput.
    """

    threads: int

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            images: (N, S, S, C) at the network input size, in [0, 255].

        Returns:
            (N, K, S, S) for a segmentation, (N, K) for a classification; K is 1 for two classes.
        """
        ...

    def side_by_side(self) -> AbstractContextManager[None]:
        """Context in which ``threads`` threads call the engine, each limited to one core."""
        ...

    def start_thread(self) -> None:
        """Initialise a thread; called once in each of these threads."""
        ...


LOGITS = "logits"
"""Name of the output to read."""


class OnnxEngine:
    """A network in an ONNX file, on the CPU.

    Args:
        file: File written by ``medvision export``.

    Attributes:
        card: Model card stored in the file.
        precision: ``32-true``.
        threads: As in ``Engine``.

    Raises:
        MedvisionError: If ONNX Runtime is not installed, or the file is damaged or was not
            written by medvision.
    """

    precision = "32-true"

    def __init__(self, file: Path) -> None:
        self._file = file
        self.threads = num_cores()  # ONNX Runtime would count the cores of the whole machine
        self._shared = self._open(threads=self.threads)
        self._single: Any = None
        self.card = ModelCard.from_dict(self._values(), where=str(file))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run(images, [LOGITS])[0]

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """Run the network and return the outputs of these names."""
        session = self._shared if self._single is None else self._single
        (name,) = (given.name for given in session.get_inputs())
        batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        try:
            return session.run(list(outputs), {name: batch})
        except Exception as error:  # ONNX Runtime raises its own types
            raise MedvisionError(
                f"the network fails on an image ({type(error).__name__})",
                where=str(self._file),
                hint="give a file that medvision export wrote",
            ) from error

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[None]:
        self._single = self._open(threads=1)
        try:
            yield
        finally:
            self._single = None

    def start_thread(self) -> None:
        """Do nothing: the session has its own number of threads."""

    def _values(self) -> Any:
        """Read the card's values from the metadata, or return None."""
        metadata = self._shared.get_modelmeta().custom_metadata_map
        try:
            return json.loads(metadata.get(METADATA_KEY, "null"))
        except (ValueError, RecursionError):  # an entry of the same name by another program
            return None

    def _open(self, *, threads: int) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise MedvisionError(
                "ONNX Runtime is not installed",
                where=str(self._file),
                hint=f"run: {install_command('onnx')}",
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = 4  # errors are raised
        onnxruntime.set_default_logger_severity(4)
        _limit_memory(onnxruntime)
        try:
            open_regular(self._file, most=MOST_MODEL_BYTES).close()
            return onnxruntime.InferenceSession(
                str(self._file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises its own types, one for each kind of damage
            raise MedvisionError(
                f"cannot be read as ONNX ({type(error).__name__})",
                where=str(self._file),
                hint="give a file written by medvision export",
            ) from error


@functools.cache
def _limit_memory(onnxruntime: Any) -> None:
    """Let the networks of this process take half of the memory at most.

    A file of a kilobyte may ask for an array of any size, which would be filled.
    """
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    most = memory_mb() * 2**20 // 2
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": most}))
