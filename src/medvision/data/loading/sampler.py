"""The order of an epoch, from (seed, epoch) alone."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

PADDING = -1
"""Row of a sample that only fills up a batch: black, all of it to be ignored, from no file."""

Key = tuple[int, ...]
"""Epoch and row of a sample: what a sampler asks a dataset for. A row drawn again in the same
epoch has the number of its repeat behind, and so another augmentation."""

_CHUNK = 1 << 14  # keys that are there at once


class EpochSampler(Sampler[Key]):
    """Rows of one epoch, each with the epoch's number.

    Lightning calls ``set_epoch``; worker processes learn the epoch from the keys, so they
    can live on from one epoch to the next.

    Args:
        num_samples: Rows to draw from.
        seed: With the epoch, decides the order.
        shuffle: Draw a new order each epoch, the same number of rows for every process;
            otherwise ascending, every row once over all processes, and as many keys for each:
            what is missing at the end is filled up with the row ``PADDING``.
        rank: Number of this process.
        num_processes: Processes that share the rows, each taking its own.
        balance_by: Class of each row; given with ``shuffle``, as many rows are drawn as there are,
            from every class alike: the rows of a rare class several times.
        pad_to: Without ``shuffle``, the keys of each process are a multiple of this.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        num_processes: int = 1,
        balance_by: NDArray[np.integer] | None = None,
        pad_to: int = 1,
    ) -> None:
        self.num_samples, self.seed, self.shuffle = num_samples, seed, shuffle
        self.balance_by, self.pad_to = balance_by, pad_to
        self.rank, self.num_processes = rank, num_processes
        self.epoch, self._behind = 0, (0, 0)

    def skip(self, num_keys: int, *, epoch: int) -> None:
        """Leave out the first keys of this process in one epoch.

        For a run that goes on in the middle of it: what it has learned from is behind it.
        """
        self._behind = (epoch, num_keys)

    @property
    def num_skipped(self) -> int:
        """Keys of this process that its epoch leaves out."""
        epoch, num_keys = self._behind
        return num_keys if self.epoch == epoch else 0

    def set_epoch(self, epoch: int) -> None:
        """Use the order of ``epoch`` from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:  # processes step together: as many rows for each, the rest in no epoch
            return self.num_samples // self.num_processes
        together = self.num_processes * self.pad_to
        return math.ceil(self.num_samples / together) * self.pad_to

    def __iter__(self) -> Iterator[Key]:
        rows, repeats = np.arange(self.num_samples), None
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            if self.balance_by is not None:
                rows, repeats = _draw_evenly(self.balance_by, rng)
            order = rng.permutation(len(rows))
            rows, repeats = rows[order], None if repeats is None else repeats[order]
        shared = len(self) * self.num_processes
        padding = np.full(max(0, shared - len(rows)), PADDING)
        first = self.rank + self.num_skipped * self.num_processes
        own = slice(first, shared, self.num_processes)
        rows = np.concatenate([rows, padding])[own]
        return _keys(self.epoch, rows, None if repeats is None else repeats[own])


def _keys(
    epoch: int, rows: NDArray[np.integer], repeats: NDArray[np.integer] | None
) -> Iterator[Key]:
    for start in range(0, len(rows), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        if repeats is None:
            yield from ((epoch, row) for row in rows[chunk].tolist())
            continue
        for row, repeat in zip(rows[chunk].tolist(), repeats[chunk].tolist(), strict=True):
            yield (epoch, row, repeat) if repeat else (epoch, row)


def _draw_evenly(
    balance_by: NDArray[np.integer], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw as many rows as there are, every class the same number (or one more).

    A class with more rows than its share gives a part of them, without repeats; one with fewer
    gives each of them equally often, up to one time.

    Returns:
        Rows, and the number of the repeat that each is; (N,).
    """
    classes = rng.permutation(np.unique(balance_by))
    rows, repeats = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for place, name in enumerate(classes):
        own = rng.permutation(np.flatnonzero(balance_by == name))
        share = len(balance_by) // len(classes) + (place < len(balance_by) % len(classes))
        repeat, chosen = np.divmod(np.arange(share), len(own))
        rows.append(own[chosen])
        repeats.append(repeat)
    return np.concatenate(rows), np.concatenate(repeats)


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
