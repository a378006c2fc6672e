"""Interface of what runs a network, and ONNX Runtime behind it, which imports no torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medvision.errors import MedvisionError, install_command
from medvision.hardware.processes import num_cores
from medvision.inference.load import METADATA_KEY
from medvision.inference.model_card import ModelCard


class Engine(Protocol):
    """Images in, logits out; safe to call from several threads at once.

    Attributes:
        threads: How many threads should call it side by side for the most images per second.
    """

    threads: int

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            images: (N, S, S, C) of the size the network was trained at, in [0, 255].

        Returns:
            For a segmentation (N, K, S, S), for a classification (N, K); K is 1 for two classes.
        """
        ...

    def side_by_side(self) -> AbstractContextManager[None]:
        """While it lasts, ``threads`` threads call, none of them using more than its core."""
        ...

    def start_thread(self) -> None:
        """Called once in each of those threads."""
        ...


LOGITS = "logits"
"""Name of the output that is read."""


class OnnxEngine:
    """A network in an ONNX file, on the CPU.

    Args:
        file: As ``medvision export`` writes it.

    Attributes:
        card: What the file says about its use.
        precision: ``32-true``.
        threads: As in ``Engine``.

    Raises:
        MedvisionError: If ONNX Runtime is not installed, or the file is damaged or of others.
    """

    precision = "32-true"

    def __init__(self, file: Path) -> None:
        self._file = file
        self.threads = num_cores()  # its own count would be that of the machine
        self._shared = self._open(threads=self.threads)
        self._single: Any = None
        self.card = ModelCard.from_dict(self._values(), where=str(file))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.run(images, [LOGITS])[0]

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """Run the network for the outputs of these names."""
        session = self._shared if self._single is None else self._single
        (name,) = (given.name for given in session.get_inputs())
        batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return session.run(list(outputs), {name: batch})

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[None]:
        self._single = self._open(threads=1)
        try:
            yield
        finally:
            self._single = None

    def start_thread(self) -> None:
        """Nothing: the session knows its number of threads."""

    def _values(self) -> Any:
        """Values of the card in the metadata, or None."""
        metadata = self._shared.get_modelmeta().custom_metadata_map
        try:
            return json.loads(metadata.get(METADATA_KEY, "null"))
        except ValueError:  # another program's entry of the same name
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
        options.log_severity_level = 3  # errors only; they are raised too
        try:
            return onnxruntime.InferenceSession(
                str(self._file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # it raises types of its own, one for each kind of damage
            raise MedvisionError(
                f"cannot be read as ONNX ({type(error).__name__})",
                where=str(self._file),
                hint="give a file that medvision export wrote",
            ) from error
