"""From a prepared data set to the batches of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from medvision.data.loading.datasets import EpochSampler, collate
from medvision.data.loading.workers import start_worker, workers_with_room
from medvision.data.pixel_cache.cache import GIGABYTE, PixelCache
from medvision.data.shards.sampler import ShardSampler
from medvision.data.validation.properties_cache import cache_folder
from medvision.types import Batch, Stage

if TYPE_CHECKING:
    from medvision.data.datamodule import ImageData


def load(
    data: ImageData,
    stage: Stage,
    *,
    balance_by: NDArray[np.integer] | None = None,
) -> DataLoader[Batch]:
    """Batches of a split, in the order of plain files unless shards are fetched a few at a time.

    Args:
        data: Prepared.
        stage: Which split.
        balance_by: Class of each row, where they are to be drawn evenly.
    """
    trainer = data.trainer
    sampler = _sampler(
        data,
        stage,
        num_samples=len(data.tables[stage]),
        seed=data.seed,
        shuffle=stage == "train",
        rank=0 if trainer is None else trainer.global_rank,
        num_processes=1 if trainer is None else trainer.world_size,
        balance_by=balance_by,
        pad_to=data.batch_size if data.fixed_shapes else 1,
    )
    if stage == "train":
        # Lightning names the epoch only after the workers have asked for their first rows.
        sampler.set_epoch(data.completed_epochs)
        sampler.skip(data.completed_batches * data.batch_size, epoch=data.completed_epochs)
    # Workers that live on are given a seed once, from the stream that dropout draws from: those
    # of validation had it in the first epoch.
    had_seed = stage == "val" and data.completed_epochs > 0 and data.num_workers > 0
    # A short last training batch would weigh its samples more and upset batch norm.
    return DataLoader[Any](
        data.dataset(stage),
        batch_size=data.batch_size,
        sampler=sampler,
        num_workers=data.num_workers,
        collate_fn=collate,
        drop_last=stage == "train" and len(sampler) >= data.batch_size,
        worker_init_fn=start_worker,
        persistent_workers=data.num_workers > 0,
        generator=torch.Generator() if had_seed else None,
    )


def limit_workers(data: ImageData) -> list[str]:
    """Use no more loader processes than there is shared memory for; return a note of it."""
    planes = data.in_channels + (data.task == "segmentation")
    batch_bytes = data.batch_size * planes * data.image_size**2
    data.num_workers, note = workers_with_room(data.num_workers, batch_bytes=batch_bytes)
    return [] if note is None else [note]


def pixels_of(data: ImageData) -> PixelCache | None:
    """Where the decoded images of a data set are kept; None for phantoms, and for no bytes."""
    if data.root is None or not data.decoded_gb:
        return None
    try:
        folder = cache_folder() / "pixels"
    except RuntimeError as fault:  # no home folder
        data.notes.append(f"decoded images cannot be kept ({fault}); set MEDVISION_CACHE_DIR")
        return None
    return PixelCache(
        folder=folder,
        root=data.root,
        size_px=data.image_size,
        channels=data.in_channels,
        with_masks=data.task == "segmentation",
        max_bytes=round(data.decoded_gb * GIGABYTE),
        num_images=sum(len(table) for table in data.tables.values()),
        reading=data.reading,
    )


def _sampler(data: ImageData, stage: Stage, **common: Any) -> EpochSampler:
    shards, window = data.shards, data.shuffle_shards
    if shards is None or not shards.is_remote or window is None:
        return EpochSampler(**common)
    if len(shards.manifest.shards) <= window:
        return EpochSampler(**common)
    return ShardSampler(shards=shards.shards_of(data.tables[stage]), window=window, **common)
