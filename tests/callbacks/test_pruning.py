"""A run reports each epoch to its search, and stops when the search prunes it."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medvision.callbacks import EpochLog, Pruning
from medvision.errors import MedvisionError
from medvision.search.definition import Definition
from medvision.search.space import Key, Numbers
from medvision.search.study import Study, Trial

MODULE: Any = None
DEFINITION = Definition(
    experiment="polyp_unet",
    keys=(Key(name="lr", given="lr", values=Numbers(low=0.0, high=1.0)),),
    fixed={},
    metric="val/dice",
    mode="max",
    sampler="tpe",
    seed=0,
    pruner="median",
    startup_trials=1,
    warmup_epochs=0,
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A search with one complete trial that had 0.5 after each of its three epochs."""
    study = Study.begin(tmp_path, DEFINITION)
    number = study.add(DEFINITION, {"lr": 0.1})
    for epoch in range(3):
        study.report(number, epoch, 0.5)
    study.end(Trial(number=number, values={}, state="complete", value=0.5))
    study.add(DEFINITION, {"lr": 0.2})
    return study


def pruning(folder: Path, **changes: Any) -> Pruning:
    fields: dict[str, Any] = {
        "folder": folder,
        "trial": 1,
        "metric": "val/dice",
        "pruner": "median",
        "startup_trials": 1,
        "warmup_epochs": 0,
        "epoch_log": EpochLog(dirpath=str(folder)),
    }
    return Pruning(**fields | changes)


def trainer(*, first: bool = True, reported: bool | None = None) -> Any:
    """A trainer of three epochs; ``reported`` is what the first process broadcasts to this one."""
    return SimpleNamespace(
        is_global_zero=first,
        max_epochs=3,
        check_val_every_n_epoch=1,
        should_stop=False,
        strategy=SimpleNamespace(broadcast=lambda own: own if reported is None else reported),
    )


def end_epoch(callback: Pruning, fit: Any, value: float | None) -> None:
    rows = callback.epoch_log.rows
    rows.append({"epoch": len(rows), "val/dice": value, "val/loss": 0.1})
    callback.on_train_epoch_end(fit, MODULE)


def test_a_run_below_the_median_is_stopped_and_one_above_it_is_not(
    tmp_path: Path, study: Study
) -> None:
    callback, fit = pruning(tmp_path), trainer()
    end_epoch(callback, fit, 0.6)
    assert not callback.pruned
    worse = pruning(tmp_path, trial=study.add(DEFINITION, {"lr": 0.3}))
    end_epoch(worse, fit, 0.4)
    assert worse.pruned
    assert fit.should_stop
    assert [trial.by_epoch for trial in study.trials()[1:]] == [{0: 0.6}, {0: 0.4}]


def test_without_a_pruner_values_are_still_reported(tmp_path: Path, study: Study) -> None:
    callback = pruning(tmp_path, pruner="none")
    end_epoch(callback, trainer(), 0.1)
    assert not callback.pruned
    assert study.trials()[1].by_epoch == {0: 0.1}


def test_after_the_last_epoch_nothing_is_stopped(tmp_path: Path, study: Study) -> None:
    callback, fit = pruning(tmp_path, warmup_epochs=2), trainer()
    for value in (0.1, 0.1, 0.1):
        end_epoch(callback, fit, value)
    assert not callback.pruned


def test_an_undefined_value_is_neither_reported_nor_used_for_pruning(
    tmp_path: Path, study: Study
) -> None:
    callback = pruning(tmp_path)
    end_epoch(callback, trainer(), None)
    assert not callback.pruned
    assert study.trials()[1].by_epoch == {}


def test_a_resumed_run_reports_lost_values_once_and_can_be_pruned_at_once(
    tmp_path: Path, study: Study
) -> None:
    study.report(1, 0, 0.45)
    callback, fit = pruning(tmp_path, warmup_epochs=1), trainer()
    callback.epoch_log.rows += [{"epoch": 0, "val/dice": 0.45}, {"epoch": 1, "val/dice": 0.4}]
    callback.on_train_start(fit, MODULE)
    assert study.trials()[1].by_epoch == {0: 0.45, 1: 0.4}
    assert callback.pruned
    assert fit.should_stop


def test_the_other_processes_prune_when_the_first_one_does(tmp_path: Path, study: Study) -> None:
    callback = pruning(tmp_path)
    fit = trainer(first=False, reported=True)
    end_epoch(callback, fit, 0.9)
    assert callback.pruned
    assert fit.should_stop
    assert study.trials()[1].by_epoch == {}


def test_a_metric_that_is_not_logged_is_named_with_the_nearest(
    tmp_path: Path, study: Study
) -> None:
    callback = pruning(tmp_path, metric="val/dise")
    with pytest.raises(
        MedvisionError, match=r"unknown logged value val/dise \(sweep.metric\); did you mean v"
    ):
        end_epoch(callback, trainer(), 0.5)


def test_another_process_opens_the_journal_itself(tmp_path: Path, study: Study) -> None:
    callback = pruning(tmp_path)
    end_epoch(callback, trainer(), 0.6)
    copy = pickle.loads(pickle.dumps(callback))
    end_epoch(copy, trainer(), 0.7)
    assert study.trials()[1].by_epoch == {0: 0.6, 1: 0.7}
