"""The order in which shards that must be fetched are read: exact, and a few of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.loading.sampler import PADDING, EpochSampler, Key

_SHARDS = 1
"""Told the generator beside seed and epoch, so that shards and rows are drawn apart."""


class ShardSampler(EpochSampler):
    """The keys of `EpochSampler` in windows of a few shards.

    With ``shuffle``: the shards that hold rows are permuted by (seed, epoch) and cut into windows
    of ``window`` shards. The keys come window by window, and within one in the order that plain
    files have in that epoch: a window of all shards gives the order of plain files. Otherwise:
    shard by shard, and within one ascending.

    Each process takes every n-th key of this one order, and as many of them as of plain files.

    Args:
        shards: Shard of each row, integers (num_samples,).
        window: Shards that are mixed with each other.
        **common: As for `EpochSampler`.
    """

    def __init__(self, *, shards: NDArray[np.integer], window: int, **common: Any) -> None:
        super().__init__(**common)
        self.shards, self.window = shards, window
        whole = {"rank": 0, "num_processes": 1, "pad_to": 1}
        self._of_plain_files = EpochSampler(**{**common, **whole})

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._of_plain_files.set_epoch(epoch)

    def __iter__(self) -> Iterator[Key]:
        keys = list(self._of_plain_files)
        rows = np.fromiter((key[1] for key in keys), np.int64, len(keys))
        order = np.argsort(self._turns()[self.shards[rows]], kind="stable")
        shared = len(self) * self.num_processes
        keys = [keys[place] for place in order[:shared].tolist()]
        keys += [(self.epoch, PADDING)] * (shared - len(keys))
        return iter(keys[self.rank : shared : self.num_processes][self.num_skipped :])

    def _turns(self) -> NDArray[np.int64]:
        """When each shard is read: the number of its window, or its own number."""
        found = np.unique(self.shards)
        turns = np.arange(found[-1] + 1 if len(found) else 0)
        if self.shuffle:
            drawn = np.random.default_rng((self.seed, self.epoch, _SHARDS))
            turns[drawn.permutation(found)] = np.arange(len(found)) // self.window
        return turns
