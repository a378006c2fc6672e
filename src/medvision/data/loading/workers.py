"""What a loader process needs to know, and how many of them the machine has room for."""

import gc
import os
import shutil
import signal
import threading
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import cv2
from torch._utils import ExceptionWrapper
from torch.utils.data import get_worker_info

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps the batches that loader processes hand over."""

AHEAD = 2
"""Batches that each loader process has ready, as PyTorch's loader has it by default."""


def start_worker(worker_id: int) -> None:  # noqa: ARG001  torch calls it with the number
    """Prepare a loader process: one thread, shared memory, and alive until the training ends it.

    OpenCV would otherwise take every core. Collecting garbage would write to, and so copy, every
    page of objects that the training held when it was forked. A cluster sends SIGTERM to every
    process of a job; the training then finishes its step, for which it needs its loaders.
    """
    cv2.setNumThreads(0)
    gc.freeze()
    Queue._on_queue_feeder_error = _hand_over  # type: ignore[attr-defined]
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """Heed SIGTERM where the process that started this one sends it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _hand_over(queue: Any, error: BaseException, item: Any) -> None:
    """Send the error in the place of a batch that could not be sent.

    Python's own prints it and drops the batch, for which the training would then wait for ever:
    so it was without a free file handle or shared memory.
    """
    info = get_worker_info()
    if info is None or not isinstance(item, tuple) or isinstance(item[1], ExceptionWrapper):
        os._exit(1)
    where = f"in DataLoader worker process {info.id}"
    told = ExceptionWrapper((type(error), error, error.__traceback__), where=where)  # type: ignore[no-untyped-call]
    queue.put((item[0], told))


def workers_with_room(num_workers: int, *, batch_bytes: int) -> tuple[int, str | None]:
    """How many loader processes the shared memory has room for.

    A batch that finds none ends its process by a bus error, in the midst of the training.

    Args:
        num_workers: How many are asked for.
        batch_bytes: Size of a batch.

    Returns:
        How many there may be, and a note where that is fewer.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return num_workers, None
    space = shutil.disk_usage(SHARED_MEMORY)
    if not space.total:  # it has no limit
        return num_workers, None
    # The processes' batches, the one that is trained on, and one that is being handed over.
    fitting = max(0, (space.free // max(1, batch_bytes) - 2) // AHEAD)
    if fitting >= num_workers:
        return num_workers, None
    return fitting, (
        f"{SHARED_MEMORY} has {space.free / 1e6:.0f} MB left, batches of"
        f" {batch_bytes / 1e6:.1f} MB each: {fitting} of {num_workers} loader processes are used;"
        " in a container, docker run --shm-size=1g gives more"
    )
