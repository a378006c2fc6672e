"""State that outlives a process: in a checkpoint, and from a forked process to its parent.

A resumed fit continues exactly. Lightning 2.6 saves neither the random state nor the running sums
of the epoch's metrics; it treats a checkpoint from the end of an epoch as one from within it, and
skips the schedule of the first epoch after resuming.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loops.progress import _ProcessedTracker
from torch import Tensor
from torchmetrics import Metric

from medvision.data import ImageData
from medvision.files import write_json
from medvision.hardware import random_state, set_random_state

KEY = "continuation"
"""Key of the state in a checkpoint."""


class ExactState(Callback):
    """Save the state for an exact resume in every checkpoint, and restore it.

    Saves the random state of every process, the running sums of the training metrics within an
    epoch, the number of its finished batches, and if the fit was over. Order and augmentation of
    the images need no state: they depend only on seed, epoch and row.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        within = is_within_epoch(trainer)
        own = {
            "random": random_state(
                pl_module.device.type,
                of_next_loader=not within and _loads_itself(trainer),
            ),
            "sums": _sums(pl_module) if within else {},
        }
        batches = cast(_ProcessedTracker, trainer.fit_loop.epoch_loop.batch_progress.current)
        checkpoint[KEY] = {
            "epoch": _epochs(trainer).processed,
            "batches": batches.processed if within else 0,
            "over": not within and _is_over(trainer),
            "processes": _of_all_processes(own, trainer.world_size),
        }
        settle(checkpoint["loops"]["fit_loop"], within=within)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._state = checkpoint.get(KEY)
        if self._state is None:  # from another program
            return
        # Lightning does so later: too late for loaders that a schedule requests before.
        trainer.fit_loop.load_state_dict(deepcopy(checkpoint["loops"]["fit_loop"]))
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageData):
            data.completed_epochs, data.completed_batches = (
                self._state["epoch"],
                self._state["batches"],
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._state is not None and not self._state["batches"]:
            trainer.fit_loop.restarting = False  # otherwise a batch and a schedule are skipped

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._state is None:
            return
        state, self._state = self._state, None
        trainer.fit_loop.restarting = False  # otherwise the schedule of this epoch's end is skipped
        if len(state["processes"]) != trainer.world_size:  # weights of another run
            return
        own = state["processes"][trainer.global_rank]
        # Only now: the loader that has just started draws from the same stream.
        set_random_state(own["random"])
        _restore_sums(pl_module, own["sums"])


def is_within_epoch(trainer: Trainer) -> bool:
    """Return True during the training batches of an epoch."""
    epochs = _epochs(trainer)
    return epochs.started > epochs.processed


def _epochs(trainer: Trainer) -> _ProcessedTracker:
    """Lightning's count of epochs, including those before resuming."""
    return cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current)


def settle(loop: dict[str, Any], *, within: bool) -> None:
    """Set the saved counters of a fit to completed work only.

    Args:
        loop: From ``FitLoop.state_dict``, at the end of a training step or of an epoch; changed in
            place.
        within: True for the end of a training step.
    """
    batches = loop["epoch_loop.batch_progress"]
    if within:
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1  # counted after the hooks
    else:
        epochs = loop["epoch_progress"]
        for progress in (epochs["total"], epochs["current"]):
            progress.update(dict.fromkeys(progress, progress["processed"]))
        batches["current"] = dict.fromkeys(batches["current"], 0)
    for progress in (batches["total"], batches["current"]):
        progress["completed"] = progress["processed"]
    batches["is_last_batch"] = False
    validation = loop["epoch_loop.val_loop.batch_progress"]
    for name in ("total", "current"):
        validation[name] = dict.fromkeys(validation[name], 0)
    validation["is_last_batch"] = False


def _is_over(trainer: Trainer) -> bool:
    """Return True if no epoch follows the one that has just ended."""
    loop = trainer.fit_loop
    epochs = _epochs(trainer).processed
    return (
        (trainer.should_stop and loop._can_stop_early)
        or 0 <= (-1 if loop.max_epochs is None else loop.max_epochs) <= epochs
        or 0 <= loop.max_steps <= trainer.global_step
    )


def _loads_itself(trainer: Trainer) -> bool:
    """Return True if the training loader has no workers, so that it restarts every epoch."""
    return not getattr(trainer.train_dataloader, "num_workers", 0)


def _training_metrics(module: LightningModule) -> dict[str, Metric]:
    named = {name: m for name, m in module.named_modules() if isinstance(m, Metric)}
    return {name: metric for name, metric in named.items() if name.startswith("train_")}


def _sums(module: LightningModule) -> dict[str, Any]:
    """Running sums of the epoch's metrics."""
    kept = {}
    for name, metric in _training_metrics(module).items():
        states = {key: getattr(metric, key) for key in metric._defaults}
        kept[name] = {
            "updates": metric._update_count,
            "states": {
                key: [_kept(part) for part in state] if isinstance(state, list) else _kept(state)
                for key, state in states.items()
            },
        }
    return kept


def _kept(state: Tensor) -> Tensor:
    return state.detach().cpu().clone()


def _restore_sums(module: LightningModule, sums: dict[str, Any]) -> None:
    metrics = _training_metrics(module)
    for name, kept in sums.items():
        metric = metrics[name]
        if set(kept["states"]) != set(metric._defaults):
            # Sums of another version of medvision: those of the rest of the epoch would pass for
            # the whole. With an image without an output its training scores are undefined.
            metric._update_count = kept["updates"]
            metric.num_not_finite = torch.ones((), dtype=torch.int64, device=module.device)
            continue
        metric._update_count, metric._computed = kept["updates"], None
        for key, state in kept["states"].items():
            parts = state if isinstance(state, list) else [state]
            there = [part.to(module.device) for part in parts]
            setattr(metric, key, there if isinstance(state, list) else there[0])


def _of_all_processes(own: dict[str, Any], world_size: int) -> list[dict[str, Any]]:
    """State of each process of the run, by rank."""
    if world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    gathered: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


class Handover(Checkpoint):
    """Write the state of the other callbacks at the end of a fit, for the parent process.

    If Lightning forks the processes of a fit (all cores of a TPU), the callbacks are copies in
    those processes, and their state is lost with them. Inherits from ``Checkpoint`` only for
    Lightning's callback order: must be the last one.

    Args:
        folder: Run folder; contains the file until it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".handover.json"

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            known = {
                name: {attribute: getattr(callback, attribute) for attribute in attributes}
                for name, callback, attributes in _givers(callbacks)
            }
            write_json(self.path, known)

    def take_over(self, callbacks: Iterable[Callback]) -> None:
        """Restore the state of the callbacks of another process, and remove the file."""
        known = json.loads(self.path.read_text())
        for name, callback, _ in _givers(callbacks):
            for attribute, value in known[name].items():
                setattr(callback, attribute, value)
        self.path.unlink()


def _givers(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback, Sequence[str]]]:
    """Name of each callback with state to hand over, the callback, and its attributes."""
    for callback in callbacks:
        if attributes := getattr(callback, "HANDED_OVER", ()):
            yield type(callback).__name__, callback, attributes
