import gc
import subprocess
import sys

import pytest

from medvision.run.quick_imports import gc_pause


def test_the_collector_is_off_inside_and_on_again_after_a_failure() -> None:
    inside = []

    def fail() -> None:
        with gc_pause():
            inside.append(gc.isenabled())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [False]
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with gc_pause():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_objects_from_before_the_pause_do_not_become_permanent() -> None:
    import torch  # noqa: F401  loaded before: nothing becomes permanent

    before = gc.get_freeze_count()
    with gc_pause():
        pass
    assert gc.get_freeze_count() == before


USE = """
import sys
from medvision.run.quick_imports import defer_unused
defer_unused()
import scipy.signal
print(hasattr(scipy.signal, "hamming"), "scipy.signal._signaltools" in sys.modules)
try: scipy.signal.nothing
except AttributeError as error: print(error)
from scipy.signal import convolve, hamming
from scipy.signal.windows import hamming as own
print(convolve([1, 2], [1, 1]).tolist(), hamming is own, scipy.signal.__name__)
"""


@pytest.mark.slow
def test_scipy_signal_is_loaded_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "True False",  # as torchmetrics asks
        "module 'scipy.signal' has no attribute 'nothing'",
        "[1, 3, 2] True scipy.signal",
    ]
