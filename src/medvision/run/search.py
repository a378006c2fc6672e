"""Search hyper-parameters: propose, start, note how it ended, go on where it was."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from medvision.files import write_json
from medvision.run.search_outcome import (
    RESULTS,
    ending_of,
    read_result,
    result_path,
    silent_ending,
)
from medvision.run.search_report import write_search, write_trials
from medvision.run.search_screen import print_end, print_line, trial_line
from medvision.run.search_settings import Settings, read_settings, runs_on_this_host
from medvision.sweeps.journal import JOURNAL, LOCK, alone
from medvision.sweeps.proposals import propose
from medvision.sweeps.space import grid
from medvision.sweeps.study import Study
from medvision.sweeps.trial import Ending, Trial, best_of
from medvision.types import MedvisionError, Stopped

Start = Callable[[Sequence[Sequence[str]], int], None]
"""Starts runs with these overrides each, waits for their ends; the number is of the first."""

WRONG_INPUT = 2
MOST_SILENT = 2
"""How often a trial may end without a word before it counts as failed."""


def search(
    arguments: Sequence[str],
    *,
    config: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
) -> None:
    """Search what a command asks for, with the launcher that Hydra was told to use.

    Args:
        arguments: Every override of the command.
        config: What Hydra made of those that have one value.
        hydra_context: Composes the configs of the trials.
        task_function: Runs one of them.

    Raises:
        MedvisionError: If something the user gave cannot be used, another process leads the same
            search, or no trial came to its end.
        Stopped: Where a signal ended it.
    """
    loader = hydra_context.config_loader
    settings = read_settings(arguments, config, loader)
    for overrides in _alternatives(settings):
        loader.load_sweep_config(config, overrides)
    _share_cores(config, settings)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=hydra_context, task_function=task_function, config=config
    )

    def start(overrides: Sequence[Sequence[str]], first: int) -> None:
        launcher.launch(overrides, initial_job_idx=first)

    run_search(settings, start=start, loader=loader)


def run_search(settings: Settings, *, start: Start, loader: Any = None) -> None:
    """Search until enough trials have ended.

    Args:
        settings: From `read_settings`.
        start: Starts trials.
        loader: Of Hydra; knows which overrides choose from a group.

    Raises:
        MedvisionError: As `search`.
        Stopped: As `search`.
    """
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        study = _study(settings)
        leader = _Leader(settings, study, start)
        try:
            leader.lead()
        except Stopped:
            _end(settings, study, loader, stopped=True)
            raise
        except MedvisionError:
            if not any(trial.ended for trial in study.trials()):
                _forget(folder, study)
            raise
        _end(settings, study, loader, stopped=False)
        if best_of(study.trials(), settings.definition.mode) is None:
            raise MedvisionError(
                "no trial came to its end", where=str(folder), hint="see trials.csv", exit_code=3
            )


class _Leader:
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
        goes_on = [trial.number for trial in self.study.trials()]
        if goes_on:
            ended = sum(trial.ended for trial in self.study.trials())
            print_line(f"the search {self.settings.name} goes on: {ended} trials have ended")
        while batch := self._next():
            for trial in batch:
                print_line(trial_line(trial, self.settings.num_trials))
            cause = self._launch([trial for trial in batch if self._ending(trial) is None])
            first = not any(trial.ended for trial in self.study.trials())
            for trial in batch:
                self._note(trial, cause, is_first=first)
            write_trials(self.settings, self.study)

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
            result_path(self.settings.folder, trial.number).unlink(missing_ok=True)
        overrides = [overrides_of(self.settings, trial) for trial in batch]
        try:
            self.start(overrides, batch[0].number)
        except MedvisionError:
            raise
        except Exception as error:  # a worker was killed, or a cluster refused
            lines = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {lines[0]}"
        return None

    def _ending(self, trial: Trial) -> Ending | None:
        return ending_of(self.settings.folder, trial.number, self.settings.definition)

    def _note(self, trial: Trial, cause: str | None, *, is_first: bool) -> None:
        """Write down how a trial ended, unless it is to be started again."""
        said = read_result(self.settings.folder, trial.number)
        ending = self._ending(trial)
        if ending is None:
            if said is not None and not cause:  # stopped by a signal of its own
                return
            self.silent[trial.number] = self.silent.get(trial.number, 0) + 1
            if self.silent[trial.number] < MOST_SILENT:
                return
            ending = silent_ending(self.settings.folder, trial.number, cause)
        if ending.state == "failed" and is_first and self._is_of_all_trials(said):
            raise MedvisionError(str(ending.facts["error"]), told=True)
        self.study.end(trial.number, ending)
        result_path(self.settings.folder, trial.number).unlink(missing_ok=True)
        if ending.state == "failed":
            sys.stderr.write(f"trial {trial.number} failed: {ending.facts['error']}\n")
            sys.stderr.flush()

    def _is_of_all_trials(self, said: dict[str, Any] | None) -> bool:
        """Whether wrong input ended it that has nothing to do with what varies."""
        if said is None or said["code"] != WRONG_INPUT:
            return False
        about = str(said["where"] or "").partition("=")[0]
        return not any(
            about == key.name or about.startswith(f"{key.name}.")
            for key in self.settings.definition.keys
        )
