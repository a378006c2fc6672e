"""Study of a search: trials, the journal file that stores them, importance of the keys."""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from medvision.errors import MedvisionError
from medvision.files import locked
from medvision.search.definition import DIRECTIONS, Definition
from medvision.search.space import Value, distributions

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal import JournalStorage
    from optuna.trial import FrozenTrial


JOURNAL = "journal.log"
LOCK = ".lock"


class JournalLock:
    """Lock that allows one writer of a journal; the system releases it when the process ends.

    The locks of optuna are files that remain for half a minute after their process was killed. An
    incomplete line of a killed process is removed by the next writer: appending to it would make
    everything after it unreadable.

    Args:
        path: Existing journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait until no other process writes."""
        file = os.open(self.path, os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        _drop_torn_line(self.path)
        return True

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def open_journal(folder: Path) -> JournalStorage:
    """Open the journal of the search in this folder, or create it.

    Any process that has access to the file may open it, including on another host.

    Raises:
        MedvisionError: If it cannot be read.
    """
    from json import JSONDecodeError

    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / JOURNAL
    try:
        path.touch(exist_ok=True)
        lock: Any = JournalLock(path)
        lock.acquire()  # removes an incomplete line before the first read
        lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (OSError, JSONDecodeError, ValueError, KeyError, AssertionError) as error:
        raise MedvisionError(
            f"cannot read the journal of the search: {error}",
            where=str(path),
            hint="fix it, or give the search another sweep.name",
        ) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make this process the only one that leads the search of this folder.

    Raises:
        MedvisionError: If another process leads it.
    """
    with locked(folder / LOCK, wait=False) as is_free:
        if not is_free:
            raise MedvisionError(
                "another process is running this search",
                where=str(folder),
                hint="wait for it, or give this one another sweep.name",
            )
        yield


def _drop_torn_line(path: Path) -> None:
    with path.open("r+b") as file:
        if (end := file.seek(0, os.SEEK_END)) == 0:
            return
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """State of a trial.

    Attributes:
        number: Counted from 0, in the order of the proposals; also the name of its run folder.
        state: Result of the trial; ``running`` if it has not ended.
        values: Its values, by name of the key.
        value: Metric at the best epoch; for a pruned trial its best value so far; else None.
        by_epoch: Metric at the end of each epoch that defined it.
        epochs: Number of epochs trained.
        max_epochs: Number of epochs configured.
        seconds: Duration of the fit.
        best_epoch: Epoch of ``best.ckpt``, from 0.
        error: Reason of a failure, in one line.
    """

    number: int
    state: State
    values: Mapping[str, Value]
    value: float | None = None
    by_epoch: Mapping[int, float] = field(default_factory=dict)
    epochs: int | None = None
    max_epochs: int | None = None
    seconds: float | None = None
    best_epoch: int | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        """True if it counts towards the requested number of trials."""
        return self.state != "running"

    def plain(self) -> dict[str, Any]:
        """Plain values for pages and plots."""
        return {**vars(self), "values": dict(self.values), "by_epoch": dict(self.by_epoch)}


def best_of(trials: list[Trial], mode: str) -> Trial | None:
    """Complete trial with the best value, the first of equals; None if no trial is complete."""
    known = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if not known:
        return None
    sign = -1 if mode == "max" else 1
    return min(known, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


NAME = "search"
FACTS = ("epochs", "max_epochs", "seconds", "best_epoch", "error")
"""Attributes stored with a trial that has ended."""

STATES: Mapping[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
"""State of a trial, by optuna's name of it."""


class Study:
    """Journal of a search, read and written as plain values.

    Args:
        study: Optuna's study.
        storage: Journal that contains it.
    """

    def __init__(self, study: optuna.Study, storage: JournalStorage) -> None:
        self.optuna, self._storage, self._number = study, storage, study._study_id

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Study in this folder; None if there is none."""
        import optuna

        storage = open_journal(folder)
        try:
            return cls(optuna.load_study(study_name=NAME, storage=storage), storage)
        except KeyError:
            return None

    @classmethod
    def begin(cls, folder: Path, definition: Definition) -> Self:
        """Create a study in a folder that has none.

        Args:
            folder: Existing folder.
            definition: Stored with the study.
        """
        import optuna

        storage, direction = open_journal(folder), DIRECTIONS[definition.mode]
        study = optuna.create_study(study_name=NAME, storage=storage, direction=direction)
        study.set_user_attr("definition", definition.plain())
        return cls(study, storage)

    @property
    def definition(self) -> dict[str, Any] | None:
        """Stored definition; None if the process was killed before storing it."""
        return self.optuna.user_attrs.get("definition")

    def frozen(self) -> list[FrozenTrial]:
        """Trials as optuna's objects, by number."""
        return self._storage.get_all_trials(self._number)

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return [_plain(trial) for trial in self.frozen()]

    def add(self, definition: Definition, values: Mapping[str, Value]) -> int:
        """Store that a trial with these values starts; return its number."""
        from optuna.trial import TrialState, create_trial

        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(values),
            distributions=distributions(definition.keys),
        )
        added = self._storage.create_new_trial(self._number, template_trial=trial)
        return self._storage.get_trial_number_from_id(added)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Store the metric of an epoch, unless it is already stored or the trial has ended."""
        trial = self._id(number)
        known = self._storage.get_trial(trial)
        if epoch not in known.intermediate_values and not known.state.is_finished():
            self._storage.set_trial_intermediate_value(trial, epoch, value)

    def should_prune(self, number: int, *, startup_trials: int, warmup_epochs: int) -> bool:
        """Return True if the best value so far is worse than the median of the complete trials.

        The median is taken at the last epoch that this trial has reported. Nothing is pruned until
        ``startup_trials`` trials are complete, nor in the first ``warmup_epochs`` epochs.
        """
        import optuna

        pruner = optuna.pruners.MedianPruner(startup_trials, warmup_epochs)
        return pruner.prune(self.optuna, self._storage.get_trial(self._id(number)))

    def end(self, trial: Trial) -> None:
        """Store the result of a trial; its state comes last, as it can be written only once."""
        from optuna.trial import TrialState

        number = self._id(trial.number)
        for name in FACTS:
            if getattr(trial, name) is not None:
                self._storage.set_trial_user_attr(number, name, getattr(trial, name))
        state = next(name for name, known in STATES.items() if known == trial.state)
        values = None if trial.value is None else [trial.value]
        self._storage.set_trial_state_values(number, TrialState[state], values)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._number, number)


def _plain(trial: FrozenTrial) -> Trial:
    known = trial.values[0] if trial.values else None
    facts = {name: trial.user_attrs[name] for name in FACTS if name in trial.user_attrs}
    return Trial(
        number=trial.number,
        state=STATES.get(trial.state.name, "running"),
        values=dict(trial.params),
        value=known if known is not None and math.isfinite(known) else None,
        by_epoch=dict(sorted(trial.intermediate_values.items())),
        **facts,
    )


METHOD = "fANOVA"
FEWEST = 4
"""Fewest complete trials for which the shares of the variance are meaningful."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares of the variance of the metric, or the reason why there are none.

    Attributes:
        shares: By name of the key, the largest first; they sum to 1.
        num_trials: Number of complete trials used.
        reason: Reason for missing shares, in words; empty otherwise.
    """

    shares: Mapping[str, float]
    num_trials: int
    reason: str = ""


def importance_of(study: Study) -> Importance:
    """Share of each key in the variance of the metric over the complete trials.

    fANOVA: a random forest is fitted to values and metric, and the variance of its predictions over
    the whole range is split among the keys. Pruned and failed trials are excluded.

    References:
        Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance,
        ICML 2014, http://proceedings.mlr.press/v32/hutter14.html
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = [trial for trial in study.frozen() if trial.state == TrialState.COMPLETE]
    reason, shares = "", {}
    if len(complete) < FEWEST:
        reason = f"expected at least {FEWEST} complete trials, got {len(complete)}"
    elif len({trial.value for trial in complete}) == 1:
        reason = "all trials have the same value"
    elif all(values.single() for trial in complete for values in trial.distributions.values()):
        reason = "no key has more than one value"
    else:
        evaluator = FanovaImportanceEvaluator(seed=0)
        found = get_param_importances(study.optuna, evaluator=evaluator)
        varied = sorted({name for trial in complete for name in trial.distributions})
        shares = {name: float(share) for name, share in found.items()}
        shares |= dict.fromkeys((name for name in varied if name not in shares), 0.0)
    return Importance(shares=shares, num_trials=len(complete), reason=reason)
