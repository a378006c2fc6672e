"""Precision, memory format and optimizer kernels of a run, from a table.

Nothing is timed at run time: the same config on the same machine computes the same numbers.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from medvision.errors import MedvisionError
from medvision.hardware.xla import check_installed, choose_xla_cpu, tpu_is_present

Chip = Literal["cpu_bf16", "cpu", "gpu_bf16", "gpu", "mps", "tpu"]

# U-Net (dense, base 16) and U-Net with EfficientNet-Lite0 (depthwise_encoder), 256 px, batch 8,
# training images per second on 2 cores with AVX512-BF16, torch 2.9.1:
#                     fp32   fp32 channels-last   bf16   bf16 channels-last
#   dense              4.2          6.2            9.0         13.2
#   depthwise_encoder  3.4          5.6            6.2          8.5
# GPU and TPU rows follow the vendors' advice; no such machine was measured.
PRECISION: dict[Chip, str] = {
    "cpu_bf16": "bf16-mixed",
    "cpu": "32-true",
    "gpu_bf16": "bf16-mixed",
    "gpu": "16-mixed",
    "mps": "32-true",
    "tpu": "bf16-mixed",
}

REHEARSAL = "tpu_rehearsal"
"""Name of the accelerator for XLA's CPU backend."""

XLA_PRECISIONS = ("32-true", "bf16-mixed")
"""Precisions of a run on XLA; 16 bits throughout would also round weights and metrics."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hardware plan of a run.

    Attributes:
        accelerator: Lightning's name of the device type, or ``tpu_rehearsal``.
        precision: Lightning's name of the precision.
        channels_last: If True, convolutions use the channels-last memory format.
        deterministic: Lightning's flag.
        fused_optimizer: If True, the optimizer's update is one kernel.
        cpu_bf16: If True, a CPU computes in bfloat16, so that `train_with_quick_gradients` and
            `measure_first_layers_in_float32` are useful.
        xla: If True, XLA compiles the steps, so that every batch must have one shape.
    """

    accelerator: str
    precision: str
    channels_last: bool
    deterministic: bool | Literal["warn"]
    fused_optimizer: bool
    cpu_bf16: bool
    xla: bool


def choose_plan(
    *,
    accelerator: str,
    precision: str | int,
    memory_format: str,
    deterministic: bool | str,
) -> Plan:
    """Resolve every ``auto`` for the available hardware.

    Args:
        accelerator: ``auto``, ``cpu``, ``gpu``, ``tpu`` or ``tpu_rehearsal``.
        precision: ``auto`` or one of Lightning's.
        memory_format: ``auto``, ``channels_last`` or ``contiguous``.
        deterministic: ``auto`` or Lightning's flag.

    Raises:
        MedvisionError: If the accelerator is not available, or does not support the precision.
    """
    chip = _find_chip(accelerator)
    chosen = PRECISION[chip] if precision == "auto" else str(precision)
    kind = chip.split("_")[0]
    if kind == "tpu":
        chosen = "32-true" if chosen == "32" else chosen
        if chosen not in XLA_PRECISIONS:
            raise MedvisionError(
                f"expected the precision {' or '.join(XLA_PRECISIONS)} on a TPU, got {chosen}",
                where="trainer.precision",
                hint="use auto",
            )
    if deterministic == "auto":
        # CPU kernels are already deterministic, and torch's deterministic mode also fills memory.
        deterministic = "warn" if kind == "gpu" else False
    return Plan(
        accelerator=REHEARSAL if accelerator == REHEARSAL else kind,
        precision=chosen,
        channels_last=kind in ("cpu", "gpu")
        if memory_format == "auto"
        else memory_format == "channels_last",
        deterministic="warn" if deterministic == "warn" else bool(deterministic),
        # The gradient scaler of fp16 must read the gradients before the update.
        fused_optimizer=kind in ("cpu", "gpu") and chosen != "16-mixed",
        cpu_bf16=kind == "cpu" and chosen == "bf16-mixed",
        xla=kind == "tpu",
    )


def _find_chip(accelerator: str) -> Chip:
    if accelerator == REHEARSAL:
        choose_xla_cpu()
        return "tpu"
    if accelerator == "tpu" or (accelerator == "auto" and tpu_is_present()):
        if not tpu_is_present():
            check_installed("trainer=tpu")
            raise _absent("TPU", "tpu")
        return "tpu"
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        if torch.cuda.is_available():
            return "gpu_bf16" if torch.cuda.get_device_capability() >= (8, 0) else "gpu"
        if torch.backends.mps.is_available():
            return "mps"
        raise _absent("GPU", "gpu")
    return "cpu_bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_has_bf16() else "cpu"


def _cpu_has_bf16() -> bool:
    """Return True if the CPU multiplies bfloat16 in hardware; oneDNN also accepts emulation."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _absent(device: str, preset: str) -> MedvisionError:
    return MedvisionError(
        f"no {device} was found", where=f"trainer={preset}", hint="use trainer=auto or trainer=cpu"
    )
