"""Lightning trainers on XLA: one core, all cores of a host, or the CPU backend; their optimizers.

XLA treats equal Python numbers as one, and 0 and 1 as constants. If a learning rate or a bias
correction reaches such a value (``1 - lr * weight_decay`` rounds to 1 at the end of a cosine,
``1 - beta ** t`` after thousands of steps), the step is another graph and is compiled again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch_xla
import torch_xla.core.xla_model as xm
from pytorch_lightning import LightningModule
from pytorch_lightning.accelerators import XLAAccelerator
from pytorch_lightning.plugins import XLAPrecision
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.strategies.single_xla import SingleDeviceXLAStrategy
from pytorch_lightning.strategies.xla import XLAStrategy
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch_xla._internal import tpu
from torch_xla.distributed.parallel_loader import MpDeviceLoader, ParallelLoader, PerDeviceLoader
from typing_extensions import override

from medvision.errors import MedvisionError

CAN = "capturable"
"""Option of optimizers (such as Adam) that count steps and scale with tensors."""


def keep_numbers_on_device(optimizers: Sequence[Optimizer], device: torch.device) -> None:
    """Make optimizers that support it keep their numbers on the device.

    Their ``lr`` is a number between steps, as schedules and logs expect, and a tensor in steps.

    Args:
        optimizers: Changed in place; call once for each optimizer and loaded state.
        device: Device of the parameters.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if CAN in group:
                group[CAN] = True
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"].to(device)


def send_rate(optimizer: Optimizer, device: torch.device) -> None:
    """Pass learning rates as tensors in every step of an optimizer that supports it."""
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
    """Optimizer state in the form that CPU and GPU runs store, so that any of them can resume."""
    groups = [
        {**group, **({CAN: False} if CAN in group else {})} for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}


AHEAD = {"loader_prefetch_size": 4, "device_prefetch_size": 2}
"""Number of batches prefetched on the host and on the device."""


class RehearsalAccelerator(XLAAccelerator):
    """XLA's CPU backend instead of a TPU with one core; no TPU is detected."""

    @staticmethod
    @override
    def is_available() -> bool:  # type: ignore[override]  # cached upstream
        return True

    @staticmethod
    @override
    def auto_device_count() -> int:  # type: ignore[override]  # cached upstream
        return 1

    @staticmethod
    @override
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @staticmethod
    @override
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("xla", index) for index in range(devices)]


class MixedBfloat16(XLAPrecision):
    """Matrix products and convolutions in bfloat16; weights, sums and metrics in float32."""

    def __init__(self) -> None:
        super().__init__("32-true")
        self.precision = "bf16-mixed"  # name that Lightning shows

    @override
    def forward_context(self) -> torch.autocast:
        return torch.autocast("xla", dtype=torch.bfloat16)


class DeviceLoader(MpDeviceLoader):
    """Send batches to the device ahead of time; iterating ends the step before.

    In torch-xla's own loader, an error of the reader thread ends the epoch early without a message.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device) -> None:
        super().__init__(loader, device, **AHEAD)
        self._parallel_loader: ParallelLoader | None
        # attributes that Lightning requires
        self.dataset, self.batch_sampler = loader.dataset, loader.batch_sampler

    def close(self) -> None:
        """End the threads that send batches ahead of time."""
        if self._parallel_loader is not None:
            self._parallel_loader.close()
        self._parallel_loader = None

    @override
    def __iter__(self) -> PerDeviceLoader:
        self.close()
        self._parallel_loader = _Reader(self._loader, [self._device], **AHEAD)
        return self._parallel_loader.per_device_loader(self._device)


class _Reader(ParallelLoader):
    @override
    def _loader_worker(self) -> None:
        (queues,) = self._queues.values()
        try:
            for batch in self._cpu_loader:
                queues.cpu_loader_queue.put(batch)
                if self._done:
                    break
        except Exception as error:  # raised by the loop after the batches before it
            self._exception_queue.put(error)
        finally:  # last: the loop checks for an error at the end of the batches
            queues.cpu_loader_queue.close_write()


class _Device:
    """Extensions common to both strategies."""

    root_device: torch.device
    global_rank: int
    lightning_module: LightningModule
    optimizers: list[Optimizer]

    def setup(self, trainer: Any) -> None:
        super().setup(trainer)  # type: ignore[misc]
        # dropout depends on the run's seed, with a different sequence in every process
        seed = (torch.initial_seed() + self.global_rank) % 2**31
        xm.set_rng_state(seed, str(self.root_device))

    def process_dataloader(self, dataloader: Any) -> DeviceLoader:
        if isinstance(dataloader, DeviceLoader):
            return dataloader
        self._loaders = [*getattr(self, "_loaders", []), DeviceLoader(dataloader, self.root_device)]
        return self._loaders[-1]

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return _ended(super().validation_step(*args, **kwargs))  # type: ignore[misc]

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return _ended(super().test_step(*args, **kwargs))  # type: ignore[misc]

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)  # type: ignore[misc]
        keep_numbers_on_device(self.optimizers, self.root_device)
        for optimizer in self.optimizers:
            send_rate(optimizer, self.root_device)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        super().load_optimizer_state_dict(checkpoint)  # type: ignore[misc]
        keep_numbers_on_device(self.optimizers, self.root_device)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return as_stored_elsewhere(super().optimizer_state(optimizer))  # type: ignore[misc]

    def teardown(self) -> None:
        """Finish pending work.

        The environment is changed after this point, and a thread that still sends batches would
        crash the process: C libraries read the environment without a lock. Pending operations of a
        failed step are finished as one graph, not one per tensor.
        """
        for loader in getattr(self, "_loaders", []):
            loader.close()
        if self.lightning_module is not None:
            self.lightning_module.zero_grad(set_to_none=True)
        torch_xla.sync()
        super().teardown()  # type: ignore[misc]


def _ended(outputs: Any) -> Any:
    """End a step, so that the last one of an epoch has the same graph as the others."""
    torch_xla.sync()
    return outputs


class OneXlaDevice(_Device, SingleDeviceXLAStrategy):
    """One core."""


class AllXlaDevices(_Device, XLAStrategy):
    """Every core of this host, one process each, and those of the other hosts of a pod."""


def count_devices(*, rehearsal: bool, devices: int | str) -> int:
    """Number of cores of this host that a run on XLA uses.

    Raises:
        MedvisionError: If the host has another number of cores, or a rehearsal has several.
    """
    accelerator = RehearsalAccelerator() if rehearsal else XLAAccelerator()
    count = int(accelerator.auto_device_count())
    wanted = count if devices == "auto" else int(devices)
    if rehearsal and wanted != 1:
        raise MedvisionError(
            f"expected one device for a rehearsal, got {wanted}",
            where="trainer.devices",
            hint="leave it out",
        )
    if wanted not in (1, count):
        raise MedvisionError(
            f"expected one or all of the {count} TPU cores of this host, got {wanted}",
            where="trainer.devices",
            hint="set it to auto or 1",
        )
    return wanted


def trainer_options(*, rehearsal: bool, devices: int | str, precision: str) -> dict[str, Any]:
    """Arguments of Lightning's trainer for a run on XLA.

    Args:
        rehearsal: If True, use XLA's CPU backend instead of a TPU.
        devices: 1, ``auto`` or the number of cores of this host.
        precision: ``32-true`` or ``bf16-mixed``.

    Raises:
        MedvisionError: If the host has another number of cores, or a rehearsal has several.
    """
    accelerator = RehearsalAccelerator() if rehearsal else XLAAccelerator()
    wanted = count_devices(rehearsal=rehearsal, devices=devices)
    strategy: Strategy
    if wanted == 1:
        if not rehearsal:  # use one chip only, and do not wait for other hosts
            tpu.configure_one_chip_topology()
        strategy = OneXlaDevice(device=0)
    else:
        if torch_xla._XLAC._xla_runtime_is_initialized():
            raise MedvisionError(
                "torch-xla has already used the TPU in this process and cannot share it",
                where="trainer.devices",
                hint="start the runs separately, or with trainer.devices=1",
            )
        strategy = AllXlaDevices()
    mixed = precision == "bf16-mixed"
    return {
        "accelerator": accelerator,
        "devices": wanted,
        "num_nodes": 1,  # the hosts of a pod connect by themselves
        "strategy": strategy,
        "precision": None,
        "plugins": [MixedBfloat16() if mixed else XLAPrecision("32-true")],
    }
