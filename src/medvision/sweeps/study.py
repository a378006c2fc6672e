"""The trials of a search: proposed, reported on, ended exactly once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from medvision.sweeps.definition import Definition, Mode
from medvision.sweeps.journal import open_journal
from medvision.sweeps.space import Value, distributions
from medvision.sweeps.trial import Ending, State, Trial

if TYPE_CHECKING:
    from optuna.storages.journal import JournalStorage
    from optuna.trial import FrozenTrial

NAME = "search"
FACTS = ("epochs", "max_epochs", "seconds", "best_epoch", "error")


class Study:
    """The journal of a search, read and written as plain values.

    Args:
        storage: An open journal.
        number: Of the study in it.
    """

    def __init__(self, storage: JournalStorage, number: int) -> None:
        self._storage, self._number = storage, number

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """The study in this folder; None where none was begun."""
        storage = open_journal(folder)
        try:
            number = storage.get_study_id_from_name(NAME)
        except KeyError:
            return None
        return cls(storage, number)

    @classmethod
    def begin(cls, folder: Path, definition: Definition) -> Self:
        """Begin a study in a folder that has none.

        Args:
            folder: Exists.
            definition: Stored with it.
        """
        from optuna.study import StudyDirection

        storage = open_journal(folder)
        direction = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        number = storage.create_new_study([direction[definition.mode]], study_name=NAME)
        storage.set_study_user_attr(number, "definition", definition.plain())
        return cls(storage, number)

    @property
    def definition(self) -> dict[str, Any] | None:
        """What was stored; None where the process was killed before it could."""
        return self._storage.get_study_user_attrs(self._number).get("definition")

    @property
    def mode(self) -> Mode:
        """Whether large or small values are good."""
        from optuna.study import StudyDirection

        (direction,) = self._storage.get_study_directions(self._number)
        return "max" if direction == StudyDirection.MAXIMIZE else "min"

    def trials(self) -> list[Trial]:
        """All of them by number."""
        return [_plain(trial) for trial in self._storage.get_all_trials(self._number)]

    def add(self, definition: Definition, values: Mapping[str, Value]) -> int:
        """Note that a trial with these values starts; return its number."""
        from optuna.trial import TrialState, create_trial

        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(values),
            distributions=distributions(definition.keys),
        )
        added = self._storage.create_new_trial(self._number, template_trial=trial)
        return self._storage.get_trial_number_from_id(added)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Note the metric of an epoch, unless it is noted or the trial has ended."""
        trial = self._id(number)
        known = self._storage.get_trial(trial)
        if epoch not in known.intermediate_values and not known.state.is_finished():
            self._storage.set_trial_intermediate_value(trial, epoch, value)

    def is_hopeless(self, number: int, *, startup_trials: int, warmup_epochs: int) -> bool:
        """Whether the best value so far is below the median of the complete trials.

        That is the median of what they had at the last epoch that this one has reported; nothing
        is hopeless before as many trials are complete, nor within the first epochs.
        """
        import optuna

        pruner = optuna.pruners.MedianPruner(startup_trials, warmup_epochs)
        study = optuna.load_study(study_name=NAME, storage=self._storage, pruner=pruner)
        return pruner.prune(study, self._storage.get_trial(self._id(number)))

    def end(self, number: int, ending: Ending) -> None:
        """Note how a trial ended; the state goes last, for it can be written once only."""
        from optuna.trial import TrialState

        trial = self._id(number)
        for name in FACTS:
            if ending.facts.get(name) is not None:
                self._storage.set_trial_user_attr(trial, name, ending.facts[name])
        state = {
            "complete": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }[ending.state]
        values = None if ending.value is None else [ending.value]
        self._storage.set_trial_state_values(trial, state, values)

    def frozen(self) -> list[FrozenTrial]:
        """The trials as optuna has them, by number."""
        return self._storage.get_all_trials(self._number)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._number, number)


def _plain(trial: FrozenTrial) -> Trial:
    states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    state = states.get(trial.state.name, "running")
    known = trial.values[0] if trial.values else None
    facts = {name: trial.user_attrs[name] for name in FACTS if name in trial.user_attrs}
    return Trial(
        number=trial.number,
        state=state,
        values=dict(trial.params),
        value=known if known is not None and math.isfinite(known) else None,
        by_epoch=dict(sorted(trial.intermediate_values.items())),
        **facts,
    )
