"""Add metrics up over the processes of a trainer, however these are connected."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pytorch_lightning import Trainer
from torch import Tensor, nn
from torchmetrics import Metric


def sync_through(trainer: Trainer, module: nn.Module) -> None:
    """Let every metric below ``module`` compute over all processes of the trainer.

    torchmetrics itself knows ``torch.distributed`` only, which the processes of an XLA device do
    not have: the trainer's strategy connects those too. To be called in the launched processes,
    and again for each trainer. The states of a metric must have one shape in all processes.

    Args:
        trainer: Its strategy gathers the states; where it has one process, nothing is gathered.
        module: Holds metrics, at any depth.
    """
    several = trainer.world_size > 1
    gather = partial(_gather, trainer.strategy.all_gather, trainer.world_size) if several else None
    for metric in module.modules():
        if isinstance(metric, Metric):
            metric.dist_sync_fn = gather
            metric.distributed_available_fn = _yes if several else _no


def _gather(
    all_gather: Callable[[Tensor], Tensor],
    world_size: int,
    state: Tensor,
    group: Any = None,  # noqa: ARG001  torchmetrics names one, None for all
) -> list[Tensor]:
    """The state (...) of every process.

    DDP stacks what it gathers, and XLA puts it end to end along the first axis: with an axis of
    length one before the state's own, both hold the same numbers in the same order.
    """
    together = all_gather(state.unsqueeze(0))
    return list(together.reshape(world_size, *state.shape).unbind())


def _yes() -> bool:
    return True


def _no() -> bool:
    return False
