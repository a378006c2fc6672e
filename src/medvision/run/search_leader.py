"""Lead a search: start trials, wait for their ends, note how they ended."""

from collections.abc import Callable, Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from medvision.run.jobs import JOBS, STOPPED, Result, drop_result, has_begun, read_result
from medvision.run.search_outcome import ending_of, silent_ending
from medvision.run.search_report import write_trials
from medvision.run.search_screen import ending_line, print_line, trial_line
from medvision.run.search_settings import Settings
from medvision.sweeps.proposals import propose
from medvision.sweeps.study import Study
from medvision.sweeps.trial import Ending, Trial
from medvision.types import MedvisionError

Start = Callable[[Sequence[Sequence[str]], int], None]
"""Starts runs with these overrides each, waits for their ends; the number is of the first."""

WRONG_INPUT = 2
MOST_SILENT = 2
"""How often a trial may end without a word before it counts as failed."""


def overrides_of(settings: Settings, trial: Trial) -> list[str]:
    """What starts a trial, as a command line has it."""
    definition, given = settings.definition, settings.given
    return [
        *given.fixed_texts,
        *given.own,
        f"sweep.name={settings.name}",
        f"sweep.metric={definition.metric}",
        f"sweep.mode={definition.mode}",
        f"sweep.trial={trial.number}",
        *(key.override(trial.values[key.name]) for key in definition.keys),
    ]


class Leader:
    """Starts trials and notes their ends.

    Args:
        settings: Of the search.
        study: Where they are kept.
        start: Starts them.
    """

    def __init__(self, settings: Settings, study: Study, start: Start) -> None:
        self.settings, self.study, self.start = settings, study, start
        self.silent: dict[int, int] = {}

    def lead(self) -> None:
        """Until enough trials have ended, or nothing is left to try."""
        trials = self.study.trials()
        if trials:
            ended = sum(trial.ended for trial in trials)
            print_line(f"the search {self.settings.name} goes on: {ended} trials have ended")
        while batch := self._next():
            for trial in batch:
                print_line(trial_line(trial, self.settings.num_trials))
            cause = self._launch([trial for trial in batch if self._ending(trial) is None])
            first = not any(trial.ended for trial in self.study.trials())
            for trial in batch:
                self._note(trial, cause, is_first=first)
            write_trials(self.settings, self.study)
            trials = self.study.trials()
            for trial in batch:
                print_line(ending_line(trials[trial.number], trials, self.settings.definition))

    def _next(self) -> list[Trial]:
        """The trials to start now: those that a killed search left, then new ones."""
        trials = self.study.trials()
        left = self.settings.num_trials - sum(trial.ended for trial in trials)
        room = min(self.settings.jobs, left)
        batch = [trial for trial in trials if not trial.ended][: max(room, 0)]
        while len(batch) < room:
            values = propose(self.settings.definition, self.study.frozen())
            if values is None:
                if not batch:
                    print_line("everything there is to try has been tried")
                break
            number = self.study.add(self.settings.definition, values)
            batch.append(self.study.trials()[number])
        return batch

    def _launch(self, batch: Sequence[Trial]) -> str | None:
        """Start trials and wait; return what the launcher said where it broke."""
        if not batch:
            return None
        for trial in batch:
            drop_result(self.settings.folder / JOBS, trial.number)
        overrides = [overrides_of(self.settings, trial) for trial in batch]
        try:
            self.start(overrides, batch[0].number)
        except (MedvisionError, HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # a worker was killed, or a cluster refused
            lines = str(error).strip().splitlines() or [""]
            cause = f"{type(error).__name__}: {lines[0]}"
            if not any(has_begun(self.settings.folder / JOBS, t.number) for t in batch):
                raise MedvisionError(
                    f"no trial could be started: {cause}", where="hydra/launcher", exit_code=3
                ) from error
            return cause
        return None

    def _ending(self, trial: Trial) -> Ending | None:
        return ending_of(self.settings.folder, trial.number, self.settings.definition)

    def _note(self, trial: Trial, cause: str | None, *, is_first: bool) -> None:
        """Write down how a trial ended, unless it is to be started again."""
        said = read_result(self.settings.folder / JOBS, trial.number)
        ending = self._ending(trial)
        if ending is None:
            if said is not None and said.code in STOPPED:  # by a signal of its own
                return
            self.silent[trial.number] = self.silent.get(trial.number, 0) + 1
            if self.silent[trial.number] < MOST_SILENT:
                return
            ending = silent_ending(self.settings.folder, trial.number, cause)
        if ending.state == "failed" and is_first and self._is_of_all_trials(said):
            drop_result(self.settings.folder / JOBS, trial.number)  # it may be mended by then
            raise MedvisionError(str(ending.facts["error"]))
        self.study.end(trial.number, ending)
        drop_result(self.settings.folder / JOBS, trial.number)

    def _is_of_all_trials(self, said: Result | None) -> bool:
        """Whether wrong input ended it that has nothing to do with what varies."""
        if said is None or said.code != WRONG_INPUT:
            return False
        about = str(said.where or "").partition("=")[0]
        return not any(
            about == key.name or about.startswith(f"{key.name}.")
            for key in self.settings.definition.keys
        )
