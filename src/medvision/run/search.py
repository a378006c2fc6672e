"""Search hyper-parameters: propose, start, note how it ended, go on where it was."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from medvision.hardware.processes import place_of
from medvision.run.folder_lock import FolderLock
from medvision.run.jobs import JOBS, drop_empty
from medvision.run.sealed import SEARCH, start_line
from medvision.run.search_leader import Leader, Start, overrides_of
from medvision.run.search_report import TRIALS, write_search
from medvision.run.search_screen import print_end, print_line
from medvision.run.search_settings import Settings, read_settings
from medvision.sweeps.journal import JOURNAL, LOCK, alone
from medvision.sweeps.space import Numbers, Options, Value
from medvision.sweeps.study import Study
from medvision.sweeps.trial import Trial, best_of
from medvision.types import MedvisionError, Stopped


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
    place = place_of(os.environ)
    if place.has_starter and (place.num_processes or 1) > 1:
        raise MedvisionError(
            "a search starts the processes of its trials itself",
            where="sweep",
            hint=f"start it once, with trainer.devices={place.num_processes}",
        )
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

    print_line(start_line((SEARCH,)))
    run_search(settings, start=start, loader=loader)


def run_search(settings: Settings, *, start: Start, loader: ConfigLoader) -> None:
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
        study, is_new = _open(settings)
        leader = Leader(settings, study, start)
        try:
            leader.lead()
        except Stopped:
            _end(settings, study, loader)
            print_line(f"stopped; the same command goes on with the search: {folder}")
            raise
        except MedvisionError:
            if is_new and not any(trial.ended for trial in study.trials()):
                _forget(folder, study)
                (folder / LOCK).unlink(missing_ok=True)
                drop_empty(folder, *list(folder.parents)[:2])
            raise
        _end(settings, study, loader)
        if best_of(study.trials(), settings.definition.mode) is None:
            raise MedvisionError(
                "no trial came to its end",
                where=str(folder / TRIALS),
                hint="it says why",
                exit_code=3,
            )


def _alternatives(settings: Settings) -> Iterator[list[str]]:
    """Overrides in which every option of every key occurs, so that no typing error waits."""
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

    What a launcher writes lies with the search, where other hosts see it too.
    """
    launcher = config.hydra.launcher
    with open_dict(config.hydra.sweep):
        config.hydra.sweep.dir = str((settings.folder / JOBS).absolute())
    if OmegaConf.select(launcher, "n_jobs") == -1:
        with open_dict(launcher):
            launcher.n_jobs = settings.jobs
    if settings.jobs == 1 and not settings.launcher.endswith(".BasicLauncher"):
        print_line("note: one trial at a time; sweep.jobs=2 starts two")


def _open(settings: Settings) -> tuple[Study, bool]:
    """The study of the folder, and whether it is a new one.

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
        print_line(f"another search was begun in {folder}, and none of its trials ended: anew")
    _forget(folder, study)
    return Study.begin(folder, definition), True


def _forget(folder: Path, study: Study) -> None:
    """Take away a search of which nothing has ended.

    Raises:
        MedvisionError: If a process is still at work on a trial of it.
    """
    for trial in study.trials():
        job = folder / JOBS / str(trial.number)
        if job.exists():
            FolderLock.take(job).release()
        shutil.rmtree(folder / str(trial.number), ignore_errors=True)
    shutil.rmtree(folder / JOBS, ignore_errors=True)
    for name in (JOURNAL, TRIALS):
        (folder / name).unlink(missing_ok=True)


def _end(settings: Settings, study: Study, loader: ConfigLoader) -> None:
    """Write and show what there is."""
    if any(trial.ended for trial in study.trials()):
        print_end(settings, study.trials(), write_search(settings, study, loader))
