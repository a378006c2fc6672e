"""A search on a stub: proposals, journal, locks and importance."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvision.errors import MedvisionError
from medvision.search.definition import Definition, check_name
from medvision.search.proposals import propose
from medvision.search.space import Key, Numbers, Options
from medvision.search.study import JOURNAL, Study, Trial, alone, best_of, importance_of

LR = Key(name="lr", given="lr", values=Numbers(low=1e-5, high=1e-1, log=True))
WIDTH = Key(name="width", given="+width", values=Options(options=("8", "16", "32")))


def definition(**changes: Any) -> Definition:
    fields: dict[str, Any] = {
        "experiment": "polyp_unet",
        "keys": (LR, WIDTH),
        "fixed": {"trainer.max_epochs": "3"},
        "metric": "val/dice",
        "mode": "max",
        "sampler": "tpe",
        "seed": 0,
        "pruner": "median",
        "startup_trials": 2,
        "warmup_epochs": 1,
    }
    return Definition(**fields | changes)


def objective(values: dict[str, Any]) -> float:
    return float(values.get("lr", 0.0)) + int(values.get("width", 8)) / 100


def end(study: Study, number: int, state: Any, value: float | None, **facts: Any) -> None:
    study.end(Trial(number=number, values={}, state=state, value=value, **facts))


def run(folder: Path, wanted: Definition, count: int) -> Study:
    """Search until this number of trials is complete."""
    study = Study.of(folder) or Study.begin(folder, wanted)
    while len(study.trials()) < count:
        values = propose(wanted, study.frozen())
        if values is None:
            break
        number = study.add(wanted, values)
        end(study, number, "complete", objective(dict(values)))
    return study


def proposed(study: Study) -> list[dict[str, Any]]:
    return [dict(trial.values) for trial in study.trials()]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_continued_search_proposes_the_same_as_an_uninterrupted_one(
    tmp_path: Path, sampler: str
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    wanted = definition(sampler=sampler)
    whole = proposed(run(tmp_path / "whole", wanted, 14))
    run(tmp_path / "parts", wanted, 5)
    run(tmp_path / "parts", wanted, 12)
    assert proposed(run(tmp_path / "parts", wanted, 14)) == whole
    assert len({json.dumps(values) for values in whole}) == 14


def test_another_seed_proposes_something_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = proposed(run(tmp_path / "a", definition(), 3))
    assert first != proposed(run(tmp_path / "b", definition(seed=1), 3))


def test_values_are_in_their_range_and_of_its_type(tmp_path: Path) -> None:
    keys = (
        LR,
        WIDTH,
        Key(name="n", given="n", values=Numbers(low=2, high=9, whole=True, log=True)),
        Key(name="p", given="p", values=Numbers(low=0.1, high=0.5, step=0.1)),
    )
    for values in proposed(run(tmp_path, definition(keys=keys, sampler="random"), 12)):
        assert 1e-5 <= values["lr"] <= 1e-1
        assert values["width"] in ("8", "16", "32")
        assert isinstance(values["n"], int)
        assert 2 <= values["n"] <= 9
        assert values["p"] in (0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_each_combination_of_a_finite_space_is_proposed_once(tmp_path: Path, sampler: str) -> None:
    study = run(tmp_path, definition(sampler=sampler, keys=(WIDTH,)), 10)
    assert sorted(values["width"] for values in proposed(study)) == ["16", "32", "8"]


def test_the_search_leaves_a_region_in_which_trials_fail(tmp_path: Path) -> None:
    wanted = definition(keys=(LR,))
    study = Study.begin(tmp_path, wanted)
    for _ in range(25):
        values = propose(wanted, study.frozen())
        assert values is not None
        number = study.add(wanted, values)
        failed = float(values["lr"]) > 1e-3
        end(study, number, *(("failed", None) if failed else ("complete", 0.5)))
    states = [trial.state for trial in study.trials()]
    assert states[:10].count("failed") >= 4
    assert states[15:].count("failed") <= 3


def test_an_epoch_is_reported_once_and_nothing_after_the_end(tmp_path: Path) -> None:
    study = Study.begin(tmp_path, definition())
    number = study.add(definition(), {"lr": 1e-3, "width": "8"})
    study.report(number, 0, 0.5)
    study.report(number, 0, 0.7)
    end(study, number, "pruned", 0.5, epochs=1, max_epochs=3)
    study.report(number, 1, 0.9)
    (trial,) = study.trials()
    assert trial.by_epoch == {0: 0.5}
    assert (trial.state, trial.value, trial.epochs, trial.max_epochs) == ("pruned", 0.5, 1, 3)


def test_a_trial_below_the_median_of_the_complete_trials_is_pruned(tmp_path: Path) -> None:
    study = Study.begin(tmp_path, definition())
    for value in (0.4, 0.6):
        number = study.add(definition(), {"lr": value / 10, "width": "8"})
        study.report(number, 1, value)
        end(study, number, "complete", value)

    def hopeless(epoch: int, value: float, **changes: int) -> bool:
        number = study.add(definition(), {"lr": 1e-4, "width": "8"})
        study.report(number, epoch, value)
        return study.should_prune(number, **{"startup_trials": 2, "warmup_epochs": 1, **changes})

    assert hopeless(1, 0.49)  # the median of 0.4 and 0.6 is 0.5
    assert not hopeless(1, 0.51)
    assert not hopeless(0, 0.1)
    assert not hopeless(1, 0.1, startup_trials=3)


def test_an_incomplete_line_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    study = run(tmp_path, definition(), 2)
    before = proposed(study)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":6,"trial_id"')
    study = run(tmp_path, definition(), 3)
    assert proposed(study)[:2] == before
    assert [trial.state for trial in study.trials()] == ["complete"] * 3


@pytest.fixture
def holder(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Another process that holds a lock until it is killed."""

    def hold(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}\nprint('held', flush=True)\ninput()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    return hold


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_the_lock_of_a_killed_writer_is_released(
    tmp_path: Path, holder: Callable[[str], subprocess.Popen[str]]
) -> None:
    study = run(tmp_path, definition(), 1)
    process = holder(
        "from pathlib import Path\nfrom medvision.search.study import JournalLock\n"
        "JournalLock(Path('journal.log')).acquire()"
    )
    kill(process)
    number = study.add(definition(), {"lr": 1e-3, "width": "8"})
    assert number == 1


def test_a_second_process_is_refused_until_the_first_one_is_killed(
    tmp_path: Path, holder: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = holder(
        "from pathlib import Path\nfrom medvision.search.study import alone\n"
        "held = alone(Path('.'))\nheld.__enter__()"
    )
    with pytest.raises(MedvisionError, match="another process is running this search"):
        alone(tmp_path).__enter__()
    kill(process)
    with alone(tmp_path):
        pass


def test_the_hash_is_equal_only_for_the_same_search() -> None:
    name = definition().hash()
    assert name == definition().hash()
    others = [
        definition(seed=1),
        definition(keys=(LR,)),
        definition(fixed={}),
        definition(metric="val/iou"),
    ]
    assert len({name, *(other.hash() for other in others)}) == 5


def test_differences_from_the_stored_search_are_reported() -> None:
    stored = json.loads(json.dumps(definition().plain()))
    assert definition().differences(stored) == []
    wider = Key(name="lr", given="lr", values=Numbers(low=1e-4, high=1e-1, log=True))
    other = definition(seed=3, keys=(wider,), fixed={"trainer.max_epochs": "5", "loss": "dice"})
    assert other.differences(stored) == [
        "sweep.seed was 0 and is now 3",
        "+width is no longer searched",
        "lr was 1e-05 to 0.1, log and is now 0.0001 to 0.1, log",
        "loss is now given",
        "trainer.max_epochs was 3 and is now 5",
    ]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "ä"])
def test_an_invalid_folder_name_is_refused(name: str) -> None:
    with pytest.raises(MedvisionError, match=r"\(sweep.name\); use letters, digits"):
        check_name(name)


def test_importance_finds_the_relevant_key(tmp_path: Path) -> None:
    study = Study.begin(tmp_path, definition(sampler="random"))
    for _ in range(20):
        values = propose(definition(sampler="random"), study.frozen())
        assert values is not None
        number = study.add(definition(), values)
        end(study, number, "complete", float(int(values["width"])))
    found = importance_of(study)
    assert found.num_trials == 20
    assert found.shares["width"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.1, 0.2, 0.3], "expected at least 4 complete trials, got 3"),
        ([0.5] * 5, "all trials have the same value"),
    ],
)
def test_missing_importance_has_a_reason(tmp_path: Path, values: list[float], reason: str) -> None:
    study = Study.begin(tmp_path, definition())
    for place, value in enumerate(values):
        number = study.add(definition(), {"lr": 1e-3 + place / 100, "width": "8"})
        end(study, number, "complete", value)
    found = importance_of(study)
    assert (dict(found.shares), found.reason) == ({}, reason)


def test_the_best_trial_is_the_first_of_equal_ones_and_never_pruned(tmp_path: Path) -> None:
    study = Study.begin(tmp_path, definition())
    for value, state in ((0.5, "complete"), (0.5, "complete"), (0.9, "pruned")):
        number = study.add(definition(), {"lr": 1e-3, "width": "8"})
        end(study, number, state, value)
    best = best_of(study.trials(), "max")
    assert best is not None
    assert best.number == 0
