"""Faster imports of torch and Lightning."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


@contextmanager
def gc_pause() -> Iterator[None]:
    """Pause the garbage collector while modules are imported; saves a tenth of the time.

    Importing torch and Lightning creates a million permanent objects, which the collector scans
    repeatedly without freeing any.

    After the first import of torch, all objects are treated as permanent: later collections skip
    them, also in loader processes. If torch was imported before, as in a notebook, other objects
    may exist, so nothing is frozen.
    """
    was_enabled, is_first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
        if is_first and was_enabled and "torch" in sys.modules:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def defer_matplotlib() -> None:
    """Load torchmetrics without matplotlib, which takes a second and is only used for its plots.

    Reports import matplotlib when they draw. Has no effect if torchmetrics is loaded already.
    """
    if not any(isinstance(finder, _TorchmetricsPlots) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchmetricsPlots())


class _TorchmetricsPlots(MetaPathFinder):
    """Reset torchmetrics' flag that matplotlib is installed before its plot module reads it."""

    def find_spec(self, fullname: str, *_: Any, **__: Any) -> None:
        if fullname == "torchmetrics.utilities.plot":
            sys.meta_path.remove(self)
            found: Any = importlib.import_module("torchmetrics.utilities.imports")
            found._MATPLOTLIB_AVAILABLE = False
