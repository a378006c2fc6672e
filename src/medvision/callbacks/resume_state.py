"""State that outlives a process: in a checkpoint, and from a forked process to its parent.

A continued fit is the same fit. Lightning 2.6 keeps no random numbers and no sums of the epoch's
metrics; of its own counters it takes a checkpoint from the end of an epoch for one whose epoch is
still to be finished, and skips the schedule of the first epoch that goes on.
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
"""Where a checkpoint holds it."""


class ExactState(Callback):
    """Put into every checkpoint what going on exactly takes, and restore it.

    Kept are the random numbers of every process, the sums of the training metrics in the middle
    of an epoch, how many of its batches are done, and whether the fit was over. Order and
    augmentation of the images need nothing: they follow from seed, epoch and row.
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
        if self._state is None:  # of another program
            return
        # Lightning does so later: too late for loaders that a schedule has asked for by then.
        trainer.fit_loop.load_state_dict(deepcopy(checkpoint["loops"]["fit_loop"]))
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageData):
            data.completed_epochs, data.completed_batches = (
                self._state["epoch"],
                self._state["batches"],
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._state is not None and not self._state["batches"]:
            trainer.fit_loop.restarting = False  # or a batch is skipped, and a schedule

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._state is None:
            return
        state, self._state = self._state, None
        trainer.fit_loop.restarting = False  # or the schedule of this epoch's end is skipped
        if len(state["processes"]) != trainer.world_size:  # weights from elsewhere: another run
            return
        own = state["processes"][trainer.global_rank]
        # Only now: the loader that has just begun drew from the same stream.
        set_random_state(own["random"])
        _restore_sums(pl_module, own["sums"])


def is_within_epoch(trainer: Trainer) -> bool:
    """Whether the training batches of an epoch are being gone through."""
    epochs = _epochs(trainer)
    return epochs.started > epochs.processed


def _epochs(trainer: Trainer) -> _ProcessedTracker:
    """Lightning's count of the epochs of this fit and those it goes on from."""
    return cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current)


def settle(loop: dict[str, Any], *, within: bool) -> None:
    """Let the saved counters of a fit say what is done, and nothing about what was going on.

    Args:
        loop: As ``FitLoop.state_dict`` gives it, at the end of a training step or of an epoch;
            changed in place.
        within: Whether it is of a step.
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
    """Whether no epoch follows the one that has just ended."""
    loop = trainer.fit_loop
    epochs = _epochs(trainer).processed
    return (
        (trainer.should_stop and loop._can_stop_early)
        or 0 <= (-1 if loop.max_epochs is None else loop.max_epochs) <= epochs
        or 0 <= loop.max_steps <= trainer.global_step
    )


def _loads_itself(trainer: Trainer) -> bool:
    """Whether the training loader works in this process, and so begins anew each epoch."""
    return not getattr(trainer.train_dataloader, "num_workers", 0)


def _training_metrics(module: LightningModule) -> dict[str, Metric]:
    named = {name: m for name, m in module.named_modules() if isinstance(m, Metric)}
    return {name: metric for name, metric in named.items() if name.startswith("train_")}


def _sums(module: LightningModule) -> dict[str, Any]:
    """What the metrics of the epoch have counted so far."""
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
        metric._update_count, metric._computed = kept["updates"], None
        for key, state in kept["states"].items():
            parts = state if isinstance(state, list) else [state]
            there = [part.to(module.device) for part in parts]
            setattr(metric, key, there if isinstance(state, list) else there[0])


def _of_all_processes(own: dict[str, Any], world_size: int) -> list[dict[str, Any]]:
    """What each process of the run has to say, in their order."""
    if world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    gathered: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


class Handover(Checkpoint):
    """Write what the other callbacks know when a fit has ended, for another process to take over.

    Where Lightning forks the processes of a fit (all cores of a TPU), the callbacks that counted
    and chose are copies in those processes; what they know is lost with them. A ``Checkpoint`` by
    Lightning's order only: the last to see the end.

    Args:
        folder: Run folder; the file in it lives until it is taken over.
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
        """Set what the callbacks of another process knew in these, and remove the file."""
        known = json.loads(self.path.read_text())
        for name, callback, _ in _givers(callbacks):
            for attribute, value in known[name].items():
                setattr(callback, attribute, value)
        self.path.unlink()


def _givers(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback, Sequence[str]]]:
    """Name of each callback that hands something over, itself, and the attributes that it names."""
    for callback in callbacks:
        if attributes := getattr(callback, "HANDED_OVER", ()):
            yield type(callback).__name__, callback, attributes
