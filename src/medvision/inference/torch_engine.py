"""Run a network with PyTorch, in the precision of its evaluation."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medvision.hardware import (
    choose_plan,
    measure_first_layers_in_float32,
    round_weights_once,
)
from medvision.hardware.processes import num_cores
from medvision.inference.model_card import ModelCard


class TorchEngine:
    """A network on the GPU if available, else on the CPU.

    On the CPU, one thread per core, each with its own images, has a higher throughput than one
    forward pass that all cores share and wait for.

    Args:
        network: Changed in place: evaluation mode, memory format, device.
        card: Model card; its precision selects float32 or what is fast on this device.

    Attributes:
        precision: Precision in use, as named by Lightning.
        threads: As in ``Engine``.
    """

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = self.device.type == "cuda"
        mixed = card.precision == "auto" or "16" in card.precision
        plan = choose_plan(
            accelerator="gpu" if on_gpu else "cpu",
            precision="auto" if mixed else "32-true",
            memory_format="auto",
            deterministic=False,
        )
        self.precision = plan.precision
        self._dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(plan.precision)
        self.threads = 2 if on_gpu else num_cores()
        self._turn: AbstractContextManager[Any] = (
            threading.Lock() if on_gpu else contextlib.nullcontext()
        )
        if plan.cpu_bf16:
            measure_first_layers_in_float32(network)
        network = network.eval().requires_grad_(False).to(self.device)
        if plan.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu" and self._dtype is torch.bfloat16:
            round_weights_once(network)
        self.network = network

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._turn, torch.inference_mode(), self._autocast():
            batch = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels-last view, no copy
            return self.network(batch.to(self.device)).float().cpu().numpy()

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[None]:
        before = torch.get_num_threads()
        self.start_thread()
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def start_thread(self) -> None:
        """Restrict this thread to one core; OpenMP keeps the number of threads per thread."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)
