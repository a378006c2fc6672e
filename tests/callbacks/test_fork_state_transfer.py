import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning import Callback

from medvision.callbacks import BestAndLast, EpochLog, FiniteLoss, Handover, Throughput, XlaWatch


def callbacks(folder: Path) -> list[Callback]:
    """Callbacks of a fit, as created in each of its processes."""
    return [
        FiniteLoss(),
        Throughput(),
        EpochLog(dirpath=str(folder)),
        BestAndLast(dirpath=str(folder), monitor="val/dice", mode="max"),
        XlaWatch(strict=False),
        Handover(folder),
    ]


def of(kind: type[Callback], callbacks: list[Callback]) -> Any:
    (found,) = (callback for callback in callbacks if isinstance(callback, kind))
    return found


def trainer(callbacks: list[Callback], *, is_first: bool = True) -> Any:
    return SimpleNamespace(callbacks=callbacks, is_global_zero=is_first)


def watched(folder: Path) -> list[Callback]:
    """Callbacks that have seen a fit."""
    seen = callbacks(folder)
    rate, log, best = (of(kind, seen) for kind in (Throughput, EpochLog, BestAndLast))
    rate.first_step_s, rate.images, rate.seconds = 12.5, 24, 6.0
    rate.peak_memory_mb = 700.5
    log.rows = [{"epoch": 0, "val/dice": 0.1, "val/auroc": None}, {"epoch": 1, "val/dice": 0.2}]
    best.best_epoch, best.best_value, best.last_epoch = 1, 0.2, 1
    watch = of(XlaWatch, seen)
    watch.compilations_per_epoch, watch.fallbacks = [7, 0], {"aten::nonzero": 2}
    return seen


def test_another_process_takes_over_the_state_of_every_callback(tmp_path: Path) -> None:
    seen = watched(tmp_path)
    of(Handover, seen).on_fit_end(trainer(seen), None)
    fresh = callbacks(tmp_path)
    of(Handover, fresh).take_over(fresh)
    rate, log, best = (of(kind, fresh) for kind in (Throughput, EpochLog, BestAndLast))
    assert (rate.first_step_s, rate.images_per_s, rate.peak_memory_mb) == (12.5, 4.0, 700.5)
    assert log.rows == of(EpochLog, seen).rows
    assert (best.best_epoch, best.best_value, best.last_epoch) == (1, 0.2, 1)
    assert of(XlaWatch, fresh).summary() == {
        "compilations_per_epoch": [7, 0],
        "fallbacks": {"aten::nonzero": 2},
    }
    assert list(tmp_path.iterdir()) == []


def test_the_warning_about_the_best_epoch_is_handed_over(tmp_path: Path) -> None:
    seen = watched(tmp_path)
    of(BestAndLast, seen).warning = "val/dice was undefined"
    of(Handover, seen).on_fit_end(trainer(seen), None)
    fresh = callbacks(tmp_path)
    of(Handover, fresh).take_over(fresh)
    assert of(BestAndLast, fresh).warning == "val/dice was undefined"


def test_further_processes_hand_over_nothing(tmp_path: Path) -> None:
    seen = watched(tmp_path)
    of(Handover, seen).on_fit_end(trainer(seen, is_first=False), None)
    assert list(tmp_path.iterdir()) == []


def test_the_handover_callback_runs_last(tmp_path: Path) -> None:
    from pytorch_lightning.trainer.connectors.callback_connector import _CallbackConnector

    ordered = _CallbackConnector._reorder_callbacks(callbacks(tmp_path))
    assert isinstance(ordered[-1], Handover)


@pytest.mark.parametrize("kind", [Throughput, EpochLog, BestAndLast, XlaWatch])
def test_the_handed_over_state_is_plain_and_exists_from_the_start(
    tmp_path: Path, kind: Any
) -> None:
    callback = of(kind, callbacks(tmp_path))
    known = {name: getattr(callback, name) for name in kind.HANDED_OVER}
    assert json.loads(json.dumps(known)) == known


def test_every_callback_of_a_fit_can_be_pickled(tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(watched(tmp_path)))
    assert of(EpochLog, there).rows[1]["val/dice"] == 0.2
