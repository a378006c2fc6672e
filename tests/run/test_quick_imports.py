import gc

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
