"""Learning-rate schedules, as Lightning takes them."""

import math
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from medvision.scores import mode_of


def constant(optimizer: Optimizer, *, total_steps: int) -> None:
    """Use no schedule: the learning rate is constant."""


def cosine_with_warmup(
    optimizer: Optimizer, *, total_steps: int, warmup_fraction: float, final_factor: float = 0.0
) -> dict[str, Any]:
    """Rise linearly to the optimizer's rate, then fall along half a cosine.

    Args:
        optimizer: Its rate is the highest.
        total_steps: Optimizer steps of the whole fit.
        warmup_fraction: Share of them that rises, in [0, 1).
        final_factor: Last rate over the highest, in [0, 1].

    References:
        Loshchilov and Hutter, SGDR, ICLR 2017, https://arxiv.org/abs/1608.03983
    """
    warmup_steps = round(warmup_fraction * total_steps)
    factor = partial(_cosine_factor, total_steps, warmup_steps, final_factor)
    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def _cosine_factor(total_steps: int, warmup_steps: int, final_factor: float, step: int) -> float:
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2


def reduce_on_plateau(
    optimizer: Optimizer,
    *,
    total_steps: int,  # noqa: ARG001  passed to every schedule
    monitor: str,
    factor: float,
    patience: int,
    mode: Literal["max", "min"] | None = None,
) -> dict[str, Any]:
    """Lower the rate when the monitored value has stopped improving.

    Args:
        optimizer: Starts at its own rate.
        total_steps: Not used: the epochs decide.
        monitor: Logged value, such as ``val/loss``.
        factor: New rate over the old one, in (0, 1).
        patience: Epochs without a better value before the rate is lowered.
        mode: ``max`` if a larger value is better, ``min`` if a smaller one; None for the direction
            of the score.
    """
    mode = mode or mode_of(monitor)
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience)
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}
