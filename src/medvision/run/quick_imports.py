"""Faster imports of torch and Lightning."""

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
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


def defer_unused() -> None:
    """Load torchmetrics without matplotlib and ``scipy.signal``: each takes most of a second.

    It uses the one for its own plots only; reports import it when they draw. It imports the other
    to add a name to it; the content is loaded when something asks for it. Has no effect if
    torchmetrics is loaded already.
    """
    if not any(isinstance(finder, _TorchmetricsPlots) for finder in sys.meta_path):
        sys.meta_path[:0] = [_TorchmetricsPlots(), _ScipySignal()]


class _TorchmetricsPlots(MetaPathFinder):
    """Reset torchmetrics' flag that matplotlib is installed before its plot module reads it."""

    def find_spec(self, fullname: str, *_: Any, **__: Any) -> None:
        if fullname == "torchmetrics.utilities.plot":
            sys.meta_path.remove(self)
            found: Any = importlib.import_module("torchmetrics.utilities.imports")
            found._MATPLOTLIB_AVAILABLE = False


class _ScipySignal(MetaPathFinder, Loader):
    """Load ``scipy.signal`` at the first use of one of its names other than ``hamming``.

    The standard ``LazyLoader`` would load it at once, because torchmetrics looks for ``hamming``.
    """

    def find_spec(self, fullname: str, *_: Any, **__: Any) -> ModuleSpec | None:
        if fullname != "scipy.signal":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            self.loader: Any = spec.loader
            spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        def load(name: str) -> Any:
            if "__getattr__" in vars(module):
                del vars(module)["__getattr__"], vars(module)["hamming"]
                self.loader.exec_module(module)
                vars(module)["hamming"] = module.windows.hamming  # as torchmetrics does
            return getattr(module, name)

        vars(module).update(hamming=None, __getattr__=load)
