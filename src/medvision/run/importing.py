"""Import and build heavy things without looking for garbage in between."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """Leave the garbage collector out while modules are imported: a tenth of the time.

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
