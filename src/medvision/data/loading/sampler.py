"""Samplers whose order depends only on (seed, epoch)."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

PADDING = -1
"""Row of a padding sample: black, ignored in targets, not from a file."""

Key = tuple[int, ...]
"""Epoch and row of a sample, passed from sampler to dataset. A row repeated in the same epoch also
has its repeat number, and therefore another augmentation."""

_CHUNK = 1 << 14  # keys created at once


class EpochSampler(Sampler[Key]):
    """Sampler of the rows of one epoch, each with the epoch number.

    Lightning calls ``set_epoch``; worker processes get the epoch from the keys, so they can persist
    across epochs.

    Args:
        num_samples: Number of rows to draw from.
        seed: Seed that, with the epoch, determines the order.
        shuffle: If True, draw a new order each epoch, with the same number of rows for every
            process; otherwise ascending order, with every row once over all processes, padded with
            the row ``PADDING`` to the same number of keys for each.
        rank: Number of this process.
        num_processes: Number of processes that share the rows.
        balance_by: Class of each row; with ``shuffle``, ``num_samples`` rows are drawn equally from
            every class, repeating rows of rare classes.
        pad_to: Without ``shuffle``, the number of keys of each process is a multiple of this.
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
        """Skip the first keys of this process in one epoch.

        Used to resume a run in the middle of an epoch.
        """
        self._behind = (epoch, num_keys)

    @property
    def num_skipped(self) -> int:
        """Number of keys of this process that are skipped in the current epoch."""
        epoch, num_keys = self._behind
        return num_keys if self.epoch == epoch else 0

    def set_epoch(self, epoch: int) -> None:
        """Use the order of ``epoch`` from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:  # processes step together: equal numbers of rows, the remainder is dropped
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
    """Draw N rows, the same number (or one more) of every class.

    A class with more rows than its share is subsampled without repeats; one with fewer repeats each
    row equally often, up to a difference of one.

    Returns:
        Rows and their repeat numbers, (N,).
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
"""Extra seed of the generator, so that shards and rows are drawn independently."""


class ShardSampler(EpochSampler):
    """Sampler of the keys of `EpochSampler` in windows of a few shards.

    With ``shuffle``, the shards that contain rows are permuted by (seed, epoch) and divided into
    windows of ``window`` shards. The keys are ordered by window, and within a window as plain files
    in that epoch; a window of all shards gives the order of plain files. Otherwise, the keys are
    ordered by shard and ascend within a shard.

    Each process takes every n-th key of this order, as many as for plain files.

    Args:
        shards: Shard number of each row, integers (num_samples,).
        window: Number of shards that are mixed.
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
        """Return the window number of each shard, or its own number without ``shuffle``."""
        found = np.unique(self.shards)
        turns = np.arange(found[-1] + 1 if len(found) else 0)
        if self.shuffle:
            drawn = np.random.default_rng((self.seed, self.epoch, _SHARDS))
            turns[drawn.permutation(found)] = np.arange(len(found)) // self.window
        return turns
