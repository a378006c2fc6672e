"""Detect a TPU, and prepare a run on XLA before torch-xla starts.

Code that needs torch-xla itself is in ``xla_trainer``: importing it takes seconds, and CPU and GPU
runs never do.
"""

import atexit
import functools
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from medvision.errors import MedvisionError, install_command
from medvision.hardware.xla_trace import VARIABLE

TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")

QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""A rehearsal checks what is compiled, not its speed: with these flags, two epochs of a small
U-Net with batch norm take 42 s of a core instead of 105, including the start of torch."""

INSTALLED = importlib.util.find_spec("torch_xla") is not None
"""True if the extra ``tpu`` is installed."""


def tpu_is_present() -> bool:
    """Return True if torch-xla is installed and this host has a TPU.

    Lightning's own check imports torch-xla and queries Google's metadata server, which takes
    seconds on any other machine; it is called only if a device file or ``PJRT_DEVICE`` indicates a
    TPU.
    """
    if not INSTALLED:
        return False
    announced = os.environ.get("PJRT_DEVICE", "").upper() == "TPU"
    if not announced and not any(Path(device).exists() for device in TPU_DEVICES):
        return False
    from pytorch_lightning.accelerators import XLAAccelerator  # Lightning takes seconds to import

    return bool(XLAAccelerator.is_available())


def skip_slow_tpu_probe() -> None:
    """Make the trainer's TPU check return False: it runs even if the CPU was chosen."""
    from pytorch_lightning.accelerators import XLAAccelerator

    XLAAccelerator.is_available = staticmethod(lambda: False)  # type: ignore[assignment, method-assign]


def check_installed(where: str) -> None:
    """Raise ``MedvisionError`` for the key ``where`` unless torch-xla is installed."""
    if not INSTALLED:
        raise MedvisionError(
            "torch-xla is not installed",
            where=where,
            hint=f"on Linux x86-64, run: {install_command('tpu')}",
        )


def choose_xla_cpu() -> None:
    """Make torch-xla compile for this machine's CPU instead of a TPU, once it starts.

    torch-xla writes the cause and source line of every compilation and execution to a temporary
    file, which ``xla_trace`` reads.

    Raises:
        MedvisionError: If torch-xla is not installed, or is configured for another device.
    """
    check_installed("trainer=tpu_rehearsal")
    chosen = os.environ.setdefault("PJRT_DEVICE", "CPU")
    if chosen.upper() != "CPU":
        raise MedvisionError(
            f"expected PJRT_DEVICE=CPU for a rehearsal, got {chosen}",
            where="trainer=tpu_rehearsal",
            hint="unset PJRT_DEVICE, or use trainer=tpu",
        )
    os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)
    os.environ.setdefault("PT_XLA_DEBUG_LEVEL", "2")
    os.environ.setdefault(VARIABLE, _trigger_file())


@functools.cache  # torch-xla keeps its first device for the whole process
def _trigger_file() -> str:
    folder = tempfile.mkdtemp(prefix="medvision-xla-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(Path(folder, "triggers.txt"))


def announce_host() -> None:
    """Set ``NODE_RANK`` to the host of a TPU pod, as launchers of other machines do."""
    from torch_xla._internal import tpu  # imports torch-xla

    number = tpu.worker_id()
    if number > 0:
        os.environ["NODE_RANK"] = str(number)
