"""What runs a network, whatever library does the arithmetic."""

import os
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
