"""Dataset of samples as arrays, and its loader processes.

Order and augmentation depend only on (seed, epoch, row).
"""

import gc
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch._utils import ExceptionWrapper
from torch.utils.data import Dataset, get_worker_info

from medvision.data.loading.sampler import PADDING, Key
from medvision.data.loading.transforms import Transform
from medvision.data.pixel_cache import PixelCache
from medvision.data.samples import Sample, SampleTable, masks_in
from medvision.data.sources import FileSource, Source
from medvision.types import IGNORE_INDEX, Batch


class SampleDataset(Dataset[dict[str, Any]]):
    """Image, target and row of each sample, keyed by (epoch, row); row ``PADDING`` is padding.

    Args:
        samples: Samples of the split.
        source: Source of the samples.
        transform: Transform of every image and its mask.
        seed: Seed that, with epoch and row, determines every random transform.
        targets: Target of each sample, floats or unsigned integers (N, ...); None uses the masks.
        cache: Cache of decoded images; None decodes them each time.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        source: Source,
        transform: Transform,
        seed: int,
        targets: NDArray[Any] | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        self.samples = SampleTable.of(samples)
        self.source, self.transform, self.seed = source, transform, seed
        self.targets, self.cache = targets, cache
        if targets is None:
            return
        if len(targets) != len(self.samples):
            raise ValueError(f"expected {len(self.samples)} targets, got {len(targets)}")
        if targets.dtype.kind != "f" and not np.can_cast(np.uint8, targets.dtype):
            raise ValueError(
                f"expected targets that can hold the ignore index, got {targets.dtype}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        row = key[1]
        if row == PADDING:
            return self._padding()
        sample = self.samples[row]
        if self.cache is not None and isinstance(self.source, FileSource):
            image, mask = self.cache.read(self.source, sample)
        else:
            image, mask = self.source.read_for(sample, self.transform.size_px)
        (seed,) = np.random.SeedSequence((self.seed, *key)).generate_state(1)
        has_view = mask is not None and masks_in(sample.target)[1] is not None
        image, mask = self.transform(image, mask, seed=int(seed), has_view=has_view)
        target = mask if self.targets is None else self.targets[row]
        return {"image": image, "target": target, "index": row}

    def _padding(self) -> dict[str, Any]:
        """Create an ignored black image; its shape is defined by the transforms."""
        size = (self.transform.size_px, self.transform.size_px)
        black = np.zeros((*size, self.source.channels), np.uint8)
        image, mask = self.transform(black, np.zeros(size, np.uint8), seed=0)
        targets = np.asarray(mask)[None] if self.targets is None else self.targets
        ignored = np.nan if targets.dtype.kind == "f" else IGNORE_INDEX
        target = np.full(targets.shape[1:], ignored, targets.dtype)
        return {"image": np.zeros_like(image), "target": target, "index": PADDING}


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; images become (N, C, H, W) in channels-last memory without a copy."""
    image = torch.from_numpy(np.stack([item["image"] for item in items]))
    return {
        "image": image.permute(0, 3, 1, 2),
        "target": torch.from_numpy(np.stack([item["target"] for item in items])),
        "index": torch.tensor([item["index"] for item in items]),
    }


SHARED_MEMORY = Path("/dev/shm")
"""Shared memory through which Linux passes batches from loader processes."""

AHEAD = 2
"""Batches that each loader process prefetches, PyTorch's default."""


def start_worker(worker_id: int) -> None:  # noqa: ARG001  torch passes the number
    """Prepare a loader process: one thread, shared memory, SIGTERM only from the parent process.

    OpenCV would otherwise use every core. Garbage collection would write to, and therefore copy,
    every page of objects inherited at the fork. A cluster sends SIGTERM to every process of a job;
    the training then finishes its step and still needs its loaders.
    """
    cv2.setNumThreads(0)
    gc.freeze()
    Queue._on_queue_feeder_error = _hand_over  # type: ignore[attr-defined]
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """Exit on SIGTERM only if the parent process sent it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _hand_over(queue: Any, error: BaseException, item: Any) -> None:
    """Send the error instead of a batch that could not be sent.

    Python's default handler prints the error and drops the batch, so that the training blocks
    forever, for example without free file handles or shared memory.
    """
    info = get_worker_info()
    if info is None or not isinstance(item, tuple) or isinstance(item[1], ExceptionWrapper):
        os._exit(1)
    where = f"in DataLoader worker process {info.id}"
    report = ExceptionWrapper((type(error), error, error.__traceback__), where=where)  # type: ignore[no-untyped-call]
    queue.put((item[0], report))


def workers_with_room(num_workers: int, *, batch_bytes: int) -> tuple[int, str | None]:
    """Limit the number of loader processes to the available shared memory.

    Without space for a batch, a bus error kills the process during training.

    Args:
        num_workers: Requested number of loader processes.
        batch_bytes: Size of a batch in bytes.

    Returns:
        The possible number, and a note if it is smaller than requested.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return num_workers, None
    space = shutil.disk_usage(SHARED_MEMORY)
    if not space.total:  # unlimited
        return num_workers, None
    # The batches of the processes, the current training batch, and one in transfer.
    fitting = max(0, (space.free // max(1, batch_bytes) - 2) // AHEAD)
    if fitting >= num_workers:
        return num_workers, None
    return fitting, (
        f"{SHARED_MEMORY} has {space.free / 1e6:.0f} MB left, batches of"
        f" {batch_bytes / 1e6:.1f} MB each: using {fitting} of {num_workers} loader processes;"
        " in a container, docker run --shm-size=1g provides more"
    )
