"""Whether a TPU is there, and what a run on XLA needs before torch-xla starts.

What needs torch-xla itself is in ``xla_trainer``: importing it takes seconds, and a CPU or GPU run
never does.
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
"""A rehearsal asks what is compiled and not how fast that runs: two epochs of a small U-Net with
batch norm take 42 s of a core instead of 105, torch's start included."""

INSTALLED = importlib.util.find_spec("torch_xla") is not None
"""Whether the extra ``tpu`` is installed."""


def tpu_is_present() -> bool:
    """Whether torch-xla is installed and this host shows a TPU.

    Lightning's own question imports torch-xla and asks Google's metadata server, which takes
    seconds on any other machine; it is asked only where a device file or ``PJRT_DEVICE`` says
    that the answer may be yes.
    """
    if not INSTALLED:
        return False
    announced = os.environ.get("PJRT_DEVICE", "").upper() == "TPU"
    if not announced and not any(Path(device).exists() for device in TPU_DEVICES):
        return False
    from pytorch_lightning.accelerators import XLAAccelerator  # Lightning takes seconds to import

    return bool(XLAAccelerator.is_available())


def skip_slow_tpu_probe() -> None:
    """Answer the trainer's question for a TPU with no: it asks even where the CPU was chosen."""
    from pytorch_lightning.accelerators import XLAAccelerator

    XLAAccelerator.is_available = staticmethod(lambda: False)  # type: ignore[assignment, method-assign]


def check_installed(where: str) -> None:
    """Raise ``MedvisionError``, naming what asked for it, unless torch-xla is installed."""
    if not INSTALLED:
        raise MedvisionError(
            "torch-xla is not installed",
            where=where,
            hint=f"on Linux x86-64, run: {install_command('tpu')}",
        )


def choose_xla_cpu() -> None:
    """Let torch-xla, once it starts, compile for this machine's CPU instead of a TPU.

    It writes why it compiled and executed what, and from which line, to a file that is thrown away
    when the program ends; ``xla_trace`` reads it.

    Raises:
        MedvisionError: If torch-xla is not installed, or is meant for something else.
    """
    check_installed("trainer=tpu_rehearsal")
    chosen = os.environ.setdefault("PJRT_DEVICE", "CPU")
    if chosen.upper() != "CPU":
        raise MedvisionError(
            f"PJRT_DEVICE is {chosen}, and a rehearsal runs on the CPU",
            where="trainer=tpu_rehearsal",
            hint="unset PJRT_DEVICE, or use trainer=tpu",
        )
    os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)
    os.environ.setdefault("PT_XLA_DEBUG_LEVEL", "2")
    os.environ.setdefault(VARIABLE, _trigger_file())


@functools.cache  # torch-xla keeps to the first one of a process
def _trigger_file() -> str:
    folder = tempfile.mkdtemp(prefix="medvision-xla-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(Path(folder, "triggers.txt"))


def announce_host() -> None:
    """Say which host of a TPU pod this is, as launchers of other machines do: ``NODE_RANK``."""
    from torch_xla._internal import tpu  # imports torch-xla

    number = tpu.worker_id()
    if number > 0:
        os.environ["NODE_RANK"] = str(number)
