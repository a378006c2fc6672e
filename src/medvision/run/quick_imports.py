"""Quicker imports of torch and Lightning."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


@contextmanager
def gc_pause() -> Iterator[None]:
    """Pause the garbage collector while modules are imported: a tenth of the time.

    Importing torch and Lightning makes a million objects that stay. The collector goes over them
    again and again, and finds nothing.

    What is there after the first import of torch is taken for permanent: later collections, in
    loader processes as well, do not look at it. Where torch had been imported before, as in a
    notebook, objects of others may lie around, which are left as they are.
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
    """Let torchmetrics load without matplotlib: a second, for plots that this program never draws.

    Reports import matplotlib when they draw. Nothing changes where torchmetrics is loaded already.
    """
    if not any(isinstance(finder, _TorchmetricsPlots) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchmetricsPlots())


class _TorchmetricsPlots(MetaPathFinder):
    """Take back torchmetrics' note that matplotlib is installed before its plot module reads it."""

    def find_spec(self, fullname: str, *_: Any, **__: Any) -> None:
        if fullname == "torchmetrics.utilities.plot":
            sys.meta_path.remove(self)
            found: Any = importlib.import_module("torchmetrics.utilities.imports")
            found._MATPLOTLIB_AVAILABLE = False
