"""Run one trial of a search, or go on with it, in whatever process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from medvision.errors import MedvisionError, Stopped
from medvision.run.multirun.jobs import JOBS, Result, alone_with, write_result
from medvision.run.processes.errors import overheard
from medvision.run.storage.resume import KEPT_FILES, OVER, InterruptedRun
from medvision.run.storage.run_folder import RunFolder
from medvision.run.storage.test_seal import SEARCH
from medvision.run.training.run_config import run_job
from medvision.search.study import JOURNAL

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from medvision.callbacks import EpochLog, Pruning


ROOT = Path("runs", SEARCH)


def trial_of(cfg: DictConfig) -> int | None:
    """Number of the trial that a config is of; None where it is of none."""
    number = OmegaConf.select(cfg, f"{SEARCH}.trial")
    return None if number is None else int(number)


def check_is_trial(cfg: DictConfig) -> bool:
    """Whether a config is that of a trial.

    Raises:
        MedvisionError: If it asks for a search, and is run alone.
    """
    if trial_of(cfg) is None and OmegaConf.select(cfg, f"{SEARCH}.sampler") is not None:
        raise MedvisionError("the experiment asks for a search", where="sweep", hint="add -m")
    return trial_of(cfg) is not None


def run_trial(cfg: DictConfig, *, is_here: bool) -> int:
    """Run a trial, and leave word of how it ended.

    What an earlier command began goes on; what is over is left as it is.

    Args:
        cfg: As composed; ``sweep.name`` and ``sweep.trial`` say where it lies.
        is_here: Whether this is the process that leads the search.

    Raises:
        Stopped: Where a signal ended it, in the process that leads the search.
    """
    base, number = ROOT / str(cfg.sweep.name), int(cfg.sweep.trial)
    jobs = base / JOBS
    with alone_with(jobs, number), overheard(quiet=True) as errors:
        run: Path | None = base / str(number)
        try:
            code = _run(cfg, base / str(number))
        except MedvisionError as error:
            errors.append(error)
            code = error.exit_code
        except Stopped as stopped:
            write_result(jobs, number, Result.of(stopped.exit_code, run, (), errors))
            if is_here:
                raise
            return stopped.exit_code
        write_result(jobs, number, Result.of(code, run, (), errors))
    return code


def pruning_of(cfg: DictConfig, folder: RunFolder, log: EpochLog) -> list[Pruning]:
    """The callback that tells a search of each epoch; none where the run is no trial of one."""
    from medvision.callbacks import Pruning

    search = folder.path.parent
    if trial_of(cfg) is None or not (search / JOURNAL).exists():
        return []
    return [
        Pruning(
            folder=search,
            trial=int(cfg.sweep.trial),
            metric=str(cfg.sweep.metric),
            pruner=cfg.sweep.pruner,
            startup_trials=int(cfg.sweep.startup_trials),
            warmup_epochs=int(cfg.sweep.warmup_epochs),
            epoch_log=log,
        )
    ]


def _run(cfg: DictConfig, path: Path) -> int:
    if path.exists() and not all((path / name).is_file() for name in KEPT_FILES):
        shutil.rmtree(path)  # it was killed before it had written what going on takes
    if not path.exists():
        experiment = str(_choice("experiment"))
        return run_job(cfg, experiment, lambda: RunFolder(path), sealed_by=(SEARCH,))[0]
    if json.loads((path / "summary.json").read_text()).get("status") in OVER:
        return 0
    begun = InterruptedRun.read(path)
    return run_job(
        begun.cfg,
        begun.experiment,
        lambda: RunFolder.reopen(path, wait=True),
        sealed_by=(SEARCH,),
    )[0]


def _choice(group: str) -> str:
    from hydra.core.hydra_config import HydraConfig

    return str(OmegaConf.to_container(HydraConfig.get().runtime.choices)[group])  # type: ignore[call-overload,index]
