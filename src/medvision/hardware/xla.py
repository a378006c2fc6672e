"""Ask whether a TPU is there without paying for the answer where there is none."""

import importlib.util
import os
from pathlib import Path

TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


def tpu_is_present() -> bool:
    """Whether torch-xla is installed and this host shows a TPU.

    Lightning's own question imports torch-xla and asks Google's metadata server, which takes
    seconds on any other machine; it is asked only where a device file or ``PJRT_DEVICE`` says
    that the answer may be yes.
    """
    if importlib.util.find_spec("torch_xla") is None:
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
