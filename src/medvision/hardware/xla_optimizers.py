"""Keep the numbers of an optimizer on the device, where no value of theirs changes a graph.

XLA takes equal numbers of Python for one, and 0 and 1 for constants. Where a learning rate or a
bias correction comes to such a value (``1 - lr * weight_decay`` rounds to 1 at the end of a cosine,
``1 - beta ** t`` after thousands of steps), the step is another graph and is compiled again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

CAN = "capturable"
"""The option of those optimizers (Adam and its kin) that count and scale with tensors."""


def keep_numbers_on_device(optimizers: Sequence[Optimizer], device: torch.device) -> None:
    """Let optimizers that can count and scale with tensors on the device.

    Their ``lr`` is a number between the steps, as schedules and logs expect, and a tensor in them.

    Args:
        optimizers: Changed in place; once for each optimizer and loaded state.
        device: Where the parameters are.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if CAN in group:
                group[CAN] = True
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"].to(device)


def send_rate(optimizer: Optimizer, device: torch.device) -> None:
    """Make every step of an optimizer that can take its learning rates as tensors."""
    rates: list[float] = []

    def before(*_: Any) -> None:
        for group in optimizer.param_groups:
            rates.append(group["lr"])
            if CAN in group:
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)

    def after(*_: Any) -> None:
        for group in reversed(optimizer.param_groups):
            group["lr"] = rates.pop()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def as_stored_elsewhere(state: dict[str, Any]) -> dict[str, Any]:
    """State of an optimizer as a run on a CPU or GPU stores it, so that any of them can go on."""
    groups = [
        {**group, **({CAN: False} if CAN in group else {})} for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}
