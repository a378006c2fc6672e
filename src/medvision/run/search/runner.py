"""Run a search: start trials, wait for them, record their results, resume after a stop."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from medvision.console import counted, print_line
from medvision.errors import MedvisionError, Stopped, first_line
from medvision.files import OVER, read_plain
from medvision.hardware.processes import place_of
from medvision.registry import trust
from medvision.run.config.hydra_errors import nearest
from medvision.run.config.schema import trusted_packages
from medvision.run.multirun.jobs import (
    JOBS,
    STOPPED,
    JobResult,
    alone_with,
    drop_empty,
    drop_result,
    has_begun,
    read_result,
    write_result,
)
from medvision.run.search.report import (
    TRIALS,
    end_search,
    ending_line,
    trial_line,
    write_trials,
)
from medvision.run.search.settings import ROOT, Settings, read_settings
from medvision.run.storage.resume import KEPT_FILES, InterruptedRun
from medvision.run.storage.run_folder import RunFolder, lock_folder
from medvision.run.storage.saved_run import read_history
from medvision.run.storage.test_seal import SEARCH, start_line
from medvision.run.training.job import Job, run_job
from medvision.search.definition import Definition
from medvision.search.proposals import propose
from medvision.search.space import Numbers, Options, Value
from medvision.search.study import JOURNAL, LOCK, Study, Trial, alone, best_of

SILENT = "its process ended without a message, as a killed one does; check its memory use"


def run_trial(cfg: DictConfig, experiment: str, *, is_here: bool) -> int:
    """Run or resume a trial, and write its result; return the exit code.

    Args:
        cfg: Composed config; ``sweep.name`` and ``sweep.trial`` determine the folder.
        experiment: Name of the experiment.
        is_here: True if this process leads the search.

    Raises:
        Stopped: If a signal ended the trial in the process that leads the search.
    """
    number, folder = int(cfg.sweep.trial), ROOT / str(cfg.sweep.name)
    run, stopped = folder / str(number), None
    with alone_with(folder / JOBS, number):
        try:
            trust(trusted_packages(cfg))
            job = _job_of(cfg, experiment, run)
            result = JobResult(code=0, run=run) if job is None else run_job(job)
        except MedvisionError as error:
            result = JobResult.of(error.exit_code, run, error)
        except Stopped as error:
            result, stopped = JobResult(code=error.exit_code, run=run), error
        write_result(folder / JOBS, number, result)
    if stopped is not None and is_here:
        raise stopped
    return result.code


def _job_of(cfg: DictConfig, experiment: str, run: Path) -> Job | None:
    """Job of a trial: a new run, or one started by an earlier command; None if it has ended."""
    if run.exists() and not all((run / name).is_file() for name in KEPT_FILES):
        shutil.rmtree(run)  # it was killed before it had written the files for resuming
    reopened = run.exists()
    if reopened:
        if read_plain(run / "summary.json").get("status") in OVER:
            return None
        begun = InterruptedRun.read(run, is_own=True)
        cfg, experiment = begun.cfg, begun.experiment
    return Job(
        cfg=cfg,
        experiment=experiment,
        folder=lambda: RunFolder.reopen(run, wait=True) if reopened else RunFolder(run),
        sealed_by=(SEARCH,),
        is_quiet=True,
    )


def ending_of(
    base: Path, trial: Trial, definition: Definition, *, silent: str | None = None
) -> Trial | None:
    """Trial with the result from its run folder; None if it has not ended.

    Args:
        base: Folder of the search.
        trial: Proposed trial.
        definition: Definition of the search, which names the metric.
        silent: Reason of the failure if the process ended without a message; None if that does not
            count as an end.
    """
    run, result = base / str(trial.number), read_result(base / JOBS, trial.number)
    summary, config = (_read(run / name) for name in ("summary.json", "config.yaml"))
    metric, rows = definition.metric, read_history(run)
    known = {int(row["epoch"] or 0): row.get(metric) for row in rows}
    values = {epoch: v for epoch, v in known.items() if v is not None and math.isfinite(v)}
    trial = replace(
        trial,
        epochs=len(rows),
        max_epochs=config.get("trainer", {}).get("max_epochs"),
        seconds=summary.get("timing", {}).get("fit_s"),
        best_epoch=summary.get("best_epoch"),
    )
    if summary.get("status") == "pruned":
        best = max if definition.mode == "max" else min
        return replace(trial, state="pruned", value=best(values.values(), default=None))
    if summary.get("status") == "finished":
        if trial.best_epoch in values:
            return replace(trial, state="complete", value=values[trial.best_epoch])
        logged = [name for name in (rows[0] if rows else ()) if "/" in name]
        error: str | None = f"{metric} is undefined at the best epoch (sweep.metric)"
        if metric not in logged:
            hint = nearest(metric, logged)
            error = f"unknown logged value {metric} (sweep.metric); {hint}"
    elif result is not None and result.code not in (0, *STOPPED):
        error = result.error or SILENT
    else:
        error = silent
    return None if error is None else replace(trial, state="failed", error=error)


def _read(path: Path) -> dict[str, Any]:
    return read_plain(path) if path.exists() else {}


Start = Callable[[Sequence[Sequence[str]], int], object]
"""Start runs with these overrides and wait for them; the number is that of the first run."""

WRONG_INPUT = 2
MOST_SILENT = 2
"""Number of ends without a message after which a trial counts as failed."""


def overrides_of(settings: Settings, trial: Trial) -> list[str]:
    """Overrides that start a trial, as on a command line."""
    definition = settings.definition
    return [
        *settings.fixed_texts,
        *settings.own,
        f"sweep.name={settings.name}",
        f"sweep.metric={definition.metric}",
        f"sweep.mode={definition.mode}",
        f"sweep.trial={trial.number}",
        *(key.override(trial.values[key.name]) for key in definition.keys),
    ]


class Leader:
    """Start trials and record their results.

    Args:
        settings: Settings of the search.
        study: Study that stores the trials.
        start: Function that starts the trials.
    """

    def __init__(self, settings: Settings, study: Study, start: Start) -> None:
        self.settings, self.study, self.start = settings, study, start
        self.silent: dict[int, int] = {}

    def lead(self) -> None:
        """Run trials until enough have ended, or no values are left to try."""
        trials = self.study.trials()
        if trials:
            ended = sum(trial.ended for trial in trials)
            print_line(
                f"continuing the search {self.settings.name}: {counted(ended, 'trial')} done"
            )
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
        """Trials to start now: unfinished ones of an earlier command, then new ones."""
        trials = self.study.trials()
        left = self.settings.num_trials - sum(trial.ended for trial in trials)
        size = min(self.settings.jobs, left)
        batch = [trial for trial in trials if not trial.ended][: max(size, 0)]
        while len(batch) < size:
            values = propose(self.settings.definition, self.study.frozen())
            if values is None:
                if not batch:
                    print_line("all combinations have been tried")
                break
            number = self.study.add(self.settings.definition, values)
            batch.append(self.study.trials()[number])
        return batch

    def _launch(self, batch: Sequence[Trial]) -> str | None:
        """Start trials and wait; return the launcher's error message, if any."""
        if not batch:
            return None
        for trial in batch:
            drop_result(self.settings.folder / JOBS, trial.number)
        overrides = [overrides_of(self.settings, trial) for trial in batch]
        try:
            self.start(overrides, batch[0].number)
        except (MedvisionError, HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # a worker was killed, or a cluster refused the job
            cause = f"{type(error).__name__}: {first_line(error)}"
            if not any(has_begun(self.settings.folder / JOBS, t.number) for t in batch):
                raise MedvisionError(
                    f"no trial could be started: {cause}", where="hydra/launcher", exit_code=3
                ) from error
            return cause
        return None

    def _ending(self, trial: Trial, *, silent: str | None = None) -> Trial | None:
        settings = self.settings
        return ending_of(settings.folder, trial, settings.definition, silent=silent)

    def _note(self, trial: Trial, cause: str | None, *, is_first: bool) -> None:
        """Record the result of a trial, unless it is to be started again."""
        result = read_result(self.settings.folder / JOBS, trial.number)
        ending = self._ending(trial)
        if ending is None:
            if result is not None and result.code in STOPPED:  # a signal sent to this trial only
                return
            self.silent[trial.number] = self.silent.get(trial.number, 0) + 1
            if self.silent[trial.number] < MOST_SILENT:
                return
            ending = self._ending(trial, silent=cause or SILENT)
        assert ending is not None
        if ending.state == "failed" and is_first and self._is_of_all_trials(result):
            drop_result(self.settings.folder / JOBS, trial.number)  # it may be fixed by then
            raise MedvisionError(str(ending.error))
        self.study.end(ending)
        drop_result(self.settings.folder / JOBS, trial.number)

    def _is_of_all_trials(self, result: JobResult | None) -> bool:
        """Return True if the error is wrong input that is unrelated to the varied keys."""
        if result is None or result.code != WRONG_INPUT:
            return False
        about = str(result.where or "").partition("=")[0]
        return not any(
            about == key.name or about.startswith(f"{key.name}.")
            for key in self.settings.definition.keys
        )


def search(
    arguments: Sequence[str],
    *,
    config: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
) -> None:
    """Run the search of a command, with the launcher configured in Hydra.

    Args:
        arguments: Every override of the command.
        config: Config that Hydra composed from the overrides with one value.
        hydra_context: Composes the configs of the trials.
        task_function: Runs one trial.

    Raises:
        MedvisionError: If an input is invalid, another process leads the same search, or no trial
            completed.
        Stopped: If a signal ended the search.
    """
    place = place_of(os.environ)
    if place.has_starter and (place.num_processes or 1) > 1:
        raise MedvisionError(
            "a search starts the processes of its trials itself",
            where="sweep",
            hint=f"start it once, with trainer.devices={place.num_processes}",
        )
    loader = hydra_context.config_loader
    trust(trusted_packages(config))  # a package may define the score to optimise
    settings = read_settings(arguments, config, loader)
    for overrides in _alternatives(settings):
        loader.load_sweep_config(config, overrides)
    _share_cores(config, settings)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=hydra_context, task_function=task_function, config=config
    )
    print_line(start_line((SEARCH,)))
    run_search(
        settings,
        start=lambda overrides, first: launcher.launch(overrides, initial_job_idx=first),
        loader=loader,
    )


def run_search(settings: Settings, *, start: Start, loader: ConfigLoader) -> None:
    """Search until enough trials have ended.

    Args:
        settings: From `read_settings`.
        start: Starts trials.
        loader: Hydra's loader, which determines the overrides that select from a group.

    Raises:
        MedvisionError: As `search`.
        Stopped: As `search`.
    """
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        study, is_new = _open(settings)
        leader = Leader(settings, study, start)

        def end() -> None:
            if any(trial.ended for trial in study.trials()):
                end_search(settings, study, loader)

        try:
            leader.lead()
        except Stopped:
            end()
            print_line(f"stopped; the same command continues the search: {folder}")
            raise
        except MedvisionError:
            if is_new and not any(trial.ended for trial in study.trials()):
                _forget(folder, study)
                (folder / LOCK).unlink(missing_ok=True)
                drop_empty(folder, *list(folder.parents)[:2])
            raise
        end()
        if best_of(study.trials(), settings.definition.mode) is None:
            raise MedvisionError(
                "no trial was completed",
                where=str(folder / TRIALS),
                hint="see the column error",
                exit_code=3,
            )


def _alternatives(settings: Settings) -> Iterator[list[str]]:
    """Overrides that cover every option of every key, to find typing errors before the start."""
    keys = settings.definition.keys
    first: dict[str, Value] = {
        key.name: key.values.low if isinstance(key.values, Numbers) else key.values.options[0]
        for key in keys
    }
    yield overrides_of(settings, Trial(number=0, state="running", values=first))
    for key in keys:
        for option in key.values.options[1:] if isinstance(key.values, Options) else ():
            values = {**first, key.name: option}
            yield overrides_of(settings, Trial(number=0, state="running", values=values))


def _share_cores(config: DictConfig, settings: Settings) -> None:
    """Let joblib start as many processes as there are jobs, which then share the cores.

    Files of a launcher are written to the folder of the search, which other hosts also see.
    """
    launcher = config.hydra.launcher
    with open_dict(config.hydra.sweep):
        config.hydra.sweep.dir = str((settings.folder / JOBS).absolute())
    if OmegaConf.select(launcher, "n_jobs") == -1:
        with open_dict(launcher):
            launcher.n_jobs = settings.jobs
    if settings.jobs == 1 and not settings.launcher.endswith(".BasicLauncher"):
        print_line("note: one trial at a time; sweep.jobs=2 runs two in parallel")


def _open(settings: Settings) -> tuple[Study, bool]:
    """Return the study of the folder, and True if it is new.

    Raises:
        MedvisionError: If trials of another search have ended there.
    """
    folder, definition = settings.folder, settings.definition
    study = Study.of(folder)
    if study is None:
        return Study.begin(folder, definition), True
    stored = study.definition
    if stored == definition.plain():
        return study, False
    if any(trial.ended for trial in study.trials()):
        raise MedvisionError(
            "this folder holds another search: " + ", ".join(definition.differences(stored or {})),
            where=f"sweep.name={settings.name}",
            hint="give this search another name, or repeat its command",
        )
    if study.trials():
        print_line(f"no trial of the search in {folder} was completed: starting again")
    _forget(folder, study)
    return Study.begin(folder, definition), True


def _forget(folder: Path, study: Study) -> None:
    """Remove a search without ended trials.

    Raises:
        MedvisionError: If a process is still running one of its trials.
    """
    for trial in study.trials():
        job = folder / JOBS / str(trial.number)
        if job.exists():
            lock_folder(job)()
        shutil.rmtree(folder / str(trial.number), ignore_errors=True)
    shutil.rmtree(folder / JOBS, ignore_errors=True)
    for name in (JOURNAL, TRIALS):
        (folder / name).unlink(missing_ok=True)
