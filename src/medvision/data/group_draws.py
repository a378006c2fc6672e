r"""The number that decides where each group of a data set goes.

u = (first 8 bytes of SHA-256("{seed}\0{group}")) / 2^64
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.data.sample_table import SampleTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The groups of N samples, G of them.

    Attributes:
        of_sample: (N,) group of each sample, in [0, G).
        first: (G,) the first sample of each.
        u: (G,) what is drawn for each, in [0, 1].
    """

    of_sample: NDArray[np.intp]
    first: NDArray[np.intp]
    u: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)


def draw_groups(samples: SampleTable, *, seed: int) -> Groups:
    """Number the groups of the samples, and draw u for each.

    Groups are told apart by 128 bits of their hashes: the names of a million of them need not be
    held at once.
    """
    drawn = bytearray()
    for key in samples.group_keys():
        drawn += _digest(seed, key)[:16]
    high, low = np.frombuffer(drawn, ">u8").astype(np.uint64).reshape(-1, 2).T
    order = np.lexsort((low, high))  # stable: the first of equal ones comes first
    high, low = high[order], low[order]
    new = np.ones(len(order), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    of_sample = np.empty(len(order), np.intp)
    of_sample[order] = np.cumsum(new) - 1
    return Groups(of_sample=of_sample, first=order[new], u=high[new] / np.float64(2**64))


def uniform(seed: int, group: str) -> float:
    """Return the number u in [0, 1] that decides where a group goes."""
    return int.from_bytes(_digest(seed, group)[:8], "big") / 2**64


def _digest(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
